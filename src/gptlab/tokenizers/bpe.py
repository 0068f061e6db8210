"""Define byte-pair encoding, trained on the text and run by `tiktoken`."""

import base64
import binascii
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tiktoken_ext import openai_public

from gptlab.errors import require
from gptlab.files import read_bounded
from gptlab.registry import option
from gptlab.tokenizers.base import EOT, MOST_BYTES, Ids, Tokenizer, panics
from gptlab.tokenizers.letters import byte_of_letter
from gptlab.tokenizers.torture import same_ids
from gptlab.tokenizers.words import WordEncoder

GPT2_SPLIT = openai_public.r50k_pat_str  # GPT-2's words: the pieces in which bytes are merged
MOST = 1 << 24  # tokens
LONG = 1 << 22  # characters of a text that is not encoded by its words, which takes some 20 times its size
_WORD_END = re.compile(r"[^\W\d_](?=[ \n。，])")


@option("tokenizer", "bpe")
@dataclass
class BPE:
    """Byte-pair encoding trained on the text (Sennrich et al. 2016); `vocab_size` counts the special token."""

    vocab_size: int = 2048  # tokens, with the 256 bytes and the end of a document
    max_bytes: int = 1_000_000_000  # bytes of training text, evenly spaced over all of it

    def __post_init__(self) -> None:
        require(self.max_bytes >= 1, "max_bytes", self.max_bytes, "must be at least 1", "1_000_000_000 is plenty")
        require(
            self.vocab_size >= 257,
            "vocab_size",
            self.vocab_size,
            "is less than the 256 bytes and one document separator",
            "give at least 257, such as 4096",
        )
        require(self.vocab_size <= MOST, "vocab_size", self.vocab_size, f"is more than {MOST:,}", "try 4096")

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Train the tokenizer on an evenly spaced part of the texts, `max_bytes` of their `size`."""
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


class BytePairTokenizer(Tokenizer, kind="byte_pair"):
    """Byte-level byte-pair encoding: `ranks` gives the id of each token; smaller ids are merged earlier."""

    def __init__(
        self, ranks: dict[bytes, int], split: str = GPT2_SPLIT, eot: int | None = None, n_vocab: int | None = None
    ) -> None:
        self.ranks, self.split = ranks, split
        self.eot = len(ranks) if eot is None else eot
        self.n_vocab = self.eot + 1 if n_vocab is None else n_vocab
        self.encoding = tiktoken.Encoding(
            "gptlab", pat_str=split, mergeable_ranks=ranks, special_tokens={EOT: self.eot}
        )
        by_words = split == GPT2_SPLIT and self.eot not in ranks.values()
        self.words = WordEncoder(self._encode_words) if by_words else None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with panics("ranks.tiktoken"):
            return self.encoding.encode_ordinary_batch(list(texts))

    def encode_array(self, text: str) -> Ids:
        try:
            with panics("ranks.tiktoken"):
                return self.encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:  # a lone surrogate, which encode_batch replaces by U+FFFD
            return super().encode_array(text)

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        if self.words is None or any(len(text) > LONG for text in texts):
            return super().encode_arrays(texts)
        try:
            return self.words.encode(texts)
        except UnicodeEncodeError:
            return super().encode_arrays(texts)

    def _encode_words(self, words: list[bytes]) -> tuple[Ids, Ids]:
        """Return the ids of words of GPT-2, joined, and how many each has; none of them spells a special token."""
        text = b"".join([word + EOT.encode() for word in words]).decode()
        with panics("ranks.tiktoken"):
            ids = self.encoding.encode_to_numpy(text, allowed_special={EOT})
        is_end = ids == self.eot
        return ids[~is_end], np.diff(np.flatnonzero(is_end), prepend=-1) - 1

    def last_cut(self, text: str) -> int:
        """Return the last position between a letter and a space, a line's end or a full-width stop.

        A word ends there in all patterns used here, and none of them looks behind itself.
        """
        for end in range(len(text), 0, -4096):
            begin = max(0, end - 4096 - 1)
            if found := [match.end() for match in _WORD_END.finditer(text, begin, end)]:
                return found[-1]
        return 0

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of ids; ids between the tokens and n_vocab, which no text has, are spelled as nothing."""
        if self.n_vocab > self.eot + 1 or self.eot > len(self.ranks):
            ids = [i for i in ids if i < len(self.ranks) or i == self.eot]
        return self.encoding.decode_bytes(ids)

    def vocab_and_merges(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """Return the encoding as GPT-2's files have it: ids by letters, and the two tokens each was merged from."""
        letter_of = {byte: letter for letter, byte in byte_of_letter().items()}
        spelled = {token: "".join(letter_of[b] for b in token) for token in self.ranks}
        merges = [
            (spelled[left], spelled[right])
            for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])
            if len(token) > 1
            for left, right in [self._merged_from(token, rank)]
        ]
        return {spelled[token]: rank for token, rank in self.ranks.items()}, merges

    def _merged_from(self, token: bytes, rank: int) -> tuple[bytes, bytes]:
        """Return the two tokens that a token was merged from, by encoding it with all earlier merges."""
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [self.ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts[0], parts[1]

    def hf_definition(self) -> str:
        """Return the same tokenizer as a tokenizer.json; raises UserError where it would give other ids."""
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HFTokenizer

        vocab, merges = self.vocab_and_merges()
        if self.split == GPT2_SPLIT or not merges:
            hf = HFTokenizer(models.BPE(vocab, merges))
            hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            hf = HFTokenizer(models.BPE({**vocab, EOT: self.eot}, merges, ignore_merges=True))
            words = pre_tokenizers.Split(Regex(_without_possessives(self.split)), "isolated")
            letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            hf.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
        hf.decoder = decoders.ByteLevel()
        hf.add_special_tokens([EOT])
        definition: str = hf.to_str()
        hf.encode_special_tokens = True
        same = hf.token_to_id(EOT) == self.eot and same_ids(self.encode, lambda text: hf.encode(text).ids)
        require(same, "run", "its tokenizer", "a tokenizer.json would give other ids", "it cannot be exported")
        return definition

    def state(self) -> dict[str, Any]:
        return {"split": self.split, "eot": self.eot, "n_vocab": self.n_vocab}

    def save(self, folder: Path) -> None:
        """Write `ranks.tiktoken` too, in tiktoken's own format: a token in base64 and its id on each line."""
        lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in self.ranks.items()]
        (folder / "ranks.tiktoken").write_text("".join(lines), encoding="utf-8")
        super().save(folder)

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "BytePairTokenizer":
        lines = read_bounded(folder / "ranks.tiktoken", MOST_BYTES).splitlines()
        pairs = (line.split() for line in lines)
        ranks = {binascii.a2b_base64(token): int(rank) for token, rank in pairs}
        if len(set(ranks.values())) < len(ranks):
            raise ValueError("an id stands for two tokens")
        return cls(ranks, state["split"], state.get("eot"), state.get("n_vocab"))


def from_gpt2_vocab(vocab: dict[str, int]) -> BytePairTokenizer:
    """Build the tokenizer of a vocab.json as GPT-2 has it: letters for bytes, ids in the order of merging."""
    byte_of = byte_of_letter()
    ranks = {bytes(byte_of[letter] for letter in token): i for token, i in vocab.items() if token != EOT}
    return BytePairTokenizer(dict(sorted(ranks.items(), key=lambda item: item[1])))


def _without_possessives(pattern: str) -> str:
    """Return a pattern of tiktoken for the engine of `tokenizers`, which reads `{1,3}+` and `$` in another way.

    In these patterns what follows a possessive repetition cannot match what it took: giving some back changes nothing.
    """
    return re.sub(r"([+*?]|\{\d[\d,]*\})\+", r"\1", pattern).replace("$", r"\z")


def _thinned(texts: Iterable[str], share: float) -> Iterator[str]:
    """Yield a share of the texts, evenly spaced; always the first one."""
    return (text for i, text in enumerate(texts) if share >= 1 or i * share // 1 > (i - 1) * share // 1)
