import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import regex

from gptlab.tokenizers import EOT, words
from gptlab.tokenizers.bpe import BPE, GPT2_SPLIT, LONG, BytePairTokenizer
from gptlab.tokenizers.openai import OpenAI
from gptlab.tokenizers.torture import TEXTS
from gptlab.tokenizers.words import WordEncoder, word_starts

# characters where GPT-2's words begin or end, and characters of all sizes in UTF-8
SIGNS = [
    *[" ", "  ", "\n", "\r\n", "\t", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "\u1680", "\u2003"],
    *["\u2028", "\u202f", "\u3000", "\u200b", "\ufeff", "'", "'s", "'S", "'ll", "'ve", "'re", "'d", "'m", "'t", "l"],
    *["e", "v", "r", "s", "a", "é", "e\u0301", "ſ", "ß", "猫", "İ", "²", "½", "Ⅷ", "٣", "1", "23", ".", "!", "_", "-"],
    *["’", "。", "🐈\u200d⬛", "\x00", EOT, "<|", "endoftext", "|>", "\ue000", "\U0010ffff", "\U00020000", "𝟗"],
]


def mixed(seed: int, count: int) -> list[str]:
    """Return texts of signs, and of characters from all of Unicode, those that nobody uses among them."""
    rng = random.Random(seed)

    def sign() -> str:
        wild = rng.choice([rng.randrange(0x80, 0xD800), rng.randrange(0xE000, 0x110000)])
        return rng.choice(SIGNS) if rng.random() < 0.8 else chr(wild)

    return ["".join(sign() for _ in range(rng.randrange(12))) for _ in range(count)]


@pytest.fixture(scope="module")
def gpt2(real_data: Path) -> BytePairTokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(real_data / "tiktoken_cache"))
        tokenizer = OpenAI("gpt2").build([])
    assert isinstance(tokenizer, BytePairTokenizer)
    return tokenizer


def as_tiktoken(tokenizer: BytePairTokenizer, texts: list[str]) -> bool:
    found = tokenizer.encode_arrays(texts)
    return [ids.tolist() for ids in found] == [tokenizer.encoding.encode_ordinary(text) for text in texts]


def test_the_ids_are_those_of_tiktoken(gpt2: BytePairTokenizer) -> None:
    assert gpt2.words is not None
    assert as_tiktoken(gpt2, list(TEXTS)) and as_tiktoken(gpt2, list(TEXTS))  # now they are remembered
    assert as_tiktoken(gpt2, mixed(0, 4000))


@pytest.mark.slow
def test_every_character_alone_and_between_others(gpt2: BytePairTokenizer) -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    for i in range(0, len(characters), 1 << 16):
        some = characters[i : i + (1 << 16)]
        assert as_tiktoken(gpt2, some)
        assert as_tiktoken(gpt2, ["".join(f"a{c} {c}1{c}\n{c}!" for c in some)])


def test_real_text(gpt2: BytePairTokenizer, real_data: Path) -> None:
    play = (real_data / "tinyshakespeare.txt").read_text()
    assert as_tiktoken(gpt2, [play, *play.split("\n\n")])


@pytest.mark.parametrize("text", mixed(1, 300))
def test_words_are_what_the_pattern_finds(text: str) -> None:
    data = b"\xff" + text.encode() + b"\xff"
    starts = np.flatnonzero(word_starts(data)).tolist()
    found = [data[start:end].decode() for start, end in itertools.pairwise(starts[1:])]
    if all(c.isascii() or c.isalnum() or c.isspace() for c in text):  # `regex` has the Unicode of another year
        assert found == regex.findall(GPT2_SPLIT, text)
    assert "".join(found) == text


def test_an_unusual_text_takes_the_way_of_tiktoken(gpt2: BytePairTokenizer) -> None:
    half = ["half \ud800 a character", "a whole one"]
    assert [ids.tolist() for ids in gpt2.encode_arrays(half)] == gpt2.encode_batch(half)
    long = ["word " * (LONG // 5 + 1), "short"]
    asked: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt2.words, "encode", asked.append)
        assert as_tiktoken(gpt2, long) and not asked


def test_other_patterns_and_separators_among_the_tokens_take_the_way_of_tiktoken(gpt2: BytePairTokenizer) -> None:
    assert BytePairTokenizer(gpt2.ranks, r"\w+|\W+").words is None
    assert BytePairTokenizer(gpt2.ranks, eot=11).words is None
    assert isinstance(made := BPE(vocab_size=300).build(["a b"]), BytePairTokenizer) and made.words is not None


def by_bytes(asked: list[bytes]) -> Callable[[list[bytes]], tuple[words.Array, words.Array]]:
    """Return an encoding whose ids are bytes, which notes what it is asked for."""

    def encode(pieces: list[bytes]) -> tuple[words.Array, words.Array]:
        asked.extend(pieces)
        return np.frombuffer(b"".join(pieces), np.uint8), np.array([len(piece) for piece in pieces])

    return encode


def test_a_word_of_up_to_31_bytes_is_asked_for_once() -> None:
    asked: list[bytes] = []
    encoder = WordEncoder(by_bytes(asked))
    pieces = ["a" * size for size in (1, 6, 7, 8, 9, 14, 15, 16, 17, 23, 24, 30, 31)]
    assert [bytes(ids.tolist()).decode() for ids in encoder.encode(["\n".join(pieces)] * 2)] == ["\n".join(pieces)] * 2
    assert sorted(asked) == sorted(word.encode() for word in ["\n", *pieces])
    assert encoder.encode(["\n".join(reversed(pieces)), ""])[0].tolist() == list("\n".join(reversed(pieces)).encode())
    assert len(asked) == len(pieces) + 1
    for _ in range(2):
        encoder.encode(["b" * 32])
    assert asked.count(b"b" * 32) == 2  # longer ones are not remembered
    assert encoder.encode([]) == []


def test_words_that_end_in_zeros_are_told_apart() -> None:
    encoder = WordEncoder(by_bytes([]))
    texts = ["\0" * size for size in range(40)] + ["!" + "\0" * size for size in range(40)]
    for _ in range(2):
        assert [bytes(ids.tolist()).decode() for ids in encoder.encode(texts)] == texts


@pytest.mark.parametrize("bound", ["WIDTHS", "MOST_IDS"])
def test_memory_is_bounded_and_what_was_forgotten_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    small = {"WIDTHS": {1: 64, 2: 64, 4: 32}, "MOST_IDS": 500}
    monkeypatch.setattr(words, bound, small[bound])
    monkeypatch.setattr(words, "AT_ONCE", 7)
    asked: list[bytes] = []
    encoder, rng = WordEncoder(by_bytes(asked)), random.Random(0)
    for _ in range(300):
        texts = [" ".join(rng.choice("abc") * rng.randrange(1, 12) + str(rng.randrange(500)) for _ in range(9))]
        assert [bytes(ids.tolist()).decode() for ids in encoder.encode(texts)] == texts
    assert len(asked) > len(set(asked))
    assert all(table.size <= len(table.values) for table in encoder.tables)
    assert encoder.kept < 10_000 or bound == "WIDTHS"
