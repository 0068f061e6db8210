"""The options of the config group `tokenizer`, each of which builds its tokenizer from the training text."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tiktoken_ext import openai_public

from gptlab.errors import UserError, reason, require
from gptlab.registry import option
from gptlab.tokenizers import (
    EOT,
    BytePairTokenizer,
    CharTokenizer,
    JSONTokenizer,
    Tokenizer,
    fingerprint,
    from_gpt2_vocab,
    load_tokenizer,
)


@option("tokenizer", "bpe")
@dataclass
class BPE:
    """Byte-pair encoding trained on the text (Sennrich et al. 2016); `vocab_size` counts the special token."""

    vocab_size: int = 2048
    max_bytes: int = 1_000_000_000  # of text that is looked at, evenly spread over all of it

    def __post_init__(self) -> None:
        require(self.max_bytes >= 1, "max_bytes", self.max_bytes, "must be at least 1", "1_000_000_000 is plenty")
        require(
            self.vocab_size >= 257,
            "vocab_size",
            self.vocab_size,
            "is less than the 256 bytes and one document separator",
            "give at least 257, such as 4096",
        )

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        from tokenizers import Tokenizer as HFTokenizer
        from tokenizers import models, pre_tokenizers, trainers

        trained = HFTokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # splits by GPT-2's pattern
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - 1, initial_alphabet=alphabet, special_tokens=[], show_progress=False
        )
        trained.train_from_iterator(_thinned(texts, self.max_bytes / max(size, 1)), trainer)
        return from_gpt2_vocab(trained.get_vocab())


OPENAI = {"gpt2": "r50k_base", "cl100k": "cl100k_base", "o200k": "o200k_base"}


@option("tokenizer", "openai")
@dataclass
class OpenAI:
    """OpenAI's published encodings, as `tiktoken` fetches, checks and caches them: GPT-2's and later ones."""

    name: str = "gpt2"  # gpt2 | cl100k | o200k

    def __post_init__(self) -> None:
        require(self.name in OPENAI, "name", self.name, "no such encoding", f"choose one of {', '.join(OPENAI)}")

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        try:
            published = getattr(openai_public, OPENAI[self.name])()
        except (OSError, ValueError) as error:
            raise UserError(
                "tokenizer",
                self.name,
                f"its vocabulary cannot be fetched ({type(error).__name__})",
                "connect once, or set TIKTOKEN_CACHE_DIR to a folder that has it, or use tokenizer=bpe",
            ) from error
        special = published["special_tokens"]
        return BytePairTokenizer(
            published["mergeable_ranks"], published["pat_str"], special[EOT], max(special.values()) + 1
        )


def gpt2_is_here() -> bool:
    """Whether GPT-2's vocabulary is where tiktoken keeps it, so that nothing is fetched."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = folder or os.path.join(tempfile.gettempdir(), "data-gym-cache")
    url = "https://openaipublic.blob.core.windows.net/encodings/r50k_base.tiktoken"
    return os.path.exists(os.path.join(folder, hashlib.sha1(url.encode()).hexdigest()))


@option("tokenizer", "char")
@dataclass
class Char:
    """One token for each character of the training text."""

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return CharTokenizer("".join(sorted(seen)))


@option("tokenizer", "byte")
@dataclass
class Byte:
    """One token a byte of UTF-8."""

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        return BytePairTokenizer({bytes([b]): b for b in range(256)}, split=r"[\s\S]")


@option("tokenizer", "saved")
@dataclass
class Saved:
    """The tokenizer of a run that exists already; `sha256` is of its files."""

    folder: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        self.sha256 = fingerprint(Path(self.folder))

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        return load_tokenizer(Path(self.folder))


@option("tokenizer", "json")
@dataclass
class JSONFile:
    """A Hugging Face tokenizer.json, as it stands; `eot` names its token between documents."""

    file: str = ""
    eot: str = EOT
    sha256: str = ""  # of the file; filled in

    def __post_init__(self) -> None:
        path = Path(self.file).expanduser()
        require(path.is_file(), "file", self.file, "no such file", "give the path of a tokenizer.json")
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        try:
            tokenizer = JSONTokenizer(Path(self.file).expanduser().read_text(), 0)
        except Exception as error:  # the library raises bare ones
            why = f"is not a tokenizer.json ({reason(error)})"
            raise UserError("tokenizer.file", self.file, why, "give one of a Hugging Face model") from error
        found = tokenizer.tokenizer.token_to_id(self.eot)
        if found is None:
            raise UserError("tokenizer.eot", self.eot, "no such token", "name the one that ends a document")
        tokenizer.eot = found
        return tokenizer


TokenizerConfig = BPE | OpenAI | Char | Byte | Saved | JSONFile


def _thinned(texts: Iterable[str], share: float) -> Iterator[str]:
    """So much of the texts, at even distances; the first one in any case."""
    return (text for i, text in enumerate(texts) if share >= 1 or i * share // 1 > (i - 1) * share // 1)
