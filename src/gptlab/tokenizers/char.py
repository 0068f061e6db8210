"""Define the tokenizer with one token for each character of the training text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.registry import option
from gptlab.tokenizers.base import EOT, Ids, Tokenizer

UNKNOWN = "<|unknown|>"  # a character that the training text does not have


@option("tokenizer", "char")
@dataclass
class Char:
    """One token for each character of the training text."""

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Return the tokenizer of the characters in the texts."""
        seen: set[str] = set()
        for text in texts:
            seen.update(text)
        return CharTokenizer("".join(sorted(seen)))


class CharTokenizer(Tokenizer, kind="char"):
    """A tokenizer with one id per character; a character not in `characters` becomes UNKNOWN and decodes to U+FFFD."""

    unknown: int

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.ids = {c: i for i, c in enumerate(characters)}
        self.eot, self.unknown = len(characters), len(characters) + 1
        self.n_vocab = len(characters) + 2
        self.pieces = [*characters, EOT, "\ufffd"]
        points = np.array([ord(c) for c in characters], np.int64)
        self.table = np.full(0x110000, self.unknown, np.uint32)  # code point -> id
        self.table[points] = np.arange(len(characters))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.ids.get(c, self.unknown) for c in text] for text in texts]

    def encode_array(self, text: str) -> Ids:
        return self.table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]

    def last_cut(self, text: str) -> int:
        return len(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return "".join(self.pieces[i] for i in ids).encode()

    def hf_definition(self) -> str:
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HFTokenizer

        ids = self.ids | {EOT: self.eot, UNKNOWN: self.unknown}
        hf = HFTokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
        hf.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        hf.decoder = decoders.Fuse()
        hf.add_special_tokens([EOT, UNKNOWN])
        definition: str = hf.to_str()
        return definition

    def special_token(self, token: int) -> str | None:
        return {self.eot: EOT, self.unknown: UNKNOWN}.get(token)

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "CharTokenizer":
        return cls(state["characters"])
