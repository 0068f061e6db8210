"""A tokenizer is registered, saved, and loaded again by its kind."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gptlab.errors import UserError
from gptlab.registry import option, options
from gptlab.tokenizers import Tokenizer, fingerprint, load_tokenizer
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte


@option("tokenizer", "test_words")
@dataclass
class Words:
    """A tokenizer of somebody else: one file, its config and its class."""

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        return WordTokenizer(sorted({word for text in texts for word in text.split()}))


class WordTokenizer(Tokenizer, kind="test_words"):
    def __init__(self, words: list[str]) -> None:
        self.words, self.eot, self.n_vocab = words, len(words), len(words) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.words.index(word) for word in text.split()] for text in texts]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return " ".join(self.words[i] for i in ids).encode()

    def state(self) -> dict[str, Any]:
        return {"words": self.words}

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "WordTokenizer":
        return cls(state["words"])


def test_every_kind_is_an_option() -> None:
    assert set(options("tokenizer")) >= {"bpe", "char", "byte", "openai", "json", "saved"}
    assert options("tokenizer")["bpe"] is BPE


def test_one_file_makes_a_tokenizer_that_is_saved_and_loaded(tmp_path: Path) -> None:
    made = options("tokenizer")["test_words"]().build(["the cat", "the dog"])
    made.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, WordTokenizer) and loaded.encode("the dog") == made.encode("the dog") == [2, 1]
    with pytest.raises(UserError, match=r"^run=its tokenizer: is a WordTokenizer; it cannot be exported$"):
        loaded.hf_definition()


def test_two_classes_of_one_kind() -> None:
    with pytest.raises(ValueError, match="kind char are loaded by"):
        type("Other", (Tokenizer,), {}, kind="char")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read (JSONDecodeError"),
        ("[]", "cannot be read (TypeError"),
        ("{}", "cannot be read (KeyError"),
        ('{"kind": "char"}', "cannot be read (KeyError"),
        ('{"kind": "byte_pair", "split": "x"}', "cannot be read (FileNotFoundError"),
        ('{"kind": "json", "definition": "{}", "eot": 0}', "cannot be read ("),
        ('{"kind": "never heard of"}', "is of kind never heard of, which is not known here; enable"),
    ],
)
def test_a_saved_tokenizer_that_is_damaged(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert why in str(error.value) and "\n" not in str(error.value)


def test_saved_before_kinds_were_registered(tmp_path: Path) -> None:
    """The files of a run of the first version."""
    saved = {"kind": "char", "characters": "ab"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    assert load_tokenizer(tmp_path).encode("abz") == [0, 1, 3]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"kind": "byte_pair", "split": r"[\s\S]"}))
    (tmp_path / "ranks.tiktoken").write_text("YQ== 0\nYg== 1\n")
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("ba") == [1, 0] and (loaded.eot, loaded.n_vocab) == (2, 3)


def test_hidden_files_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    Byte().build([]).save(tmp_path)
    before = fingerprint(tmp_path)
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert fingerprint(tmp_path) == before
    (tmp_path / "more").write_text("x")
    assert fingerprint(tmp_path) != before


def test_tokenizers_do_not_wait_for_torch() -> None:
    names = ("base", "bpe", "char", "byte", "openai", "hf", "saved")
    code = f"import sys, {', '.join(f'gptlab.tokenizers.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
