"""Define the tokenizer with one token for each character of the training text."""

import hashlib
import io
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded
from gptlab.registry import option
from gptlab.tokenizers.base import EOT, Ids, Tokenizer

MOST_META = 1 << 24  # bytes of a meta.pkl
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


@option("tokenizer", "nanogpt")
@dataclass
class NanoGPT:
    """The characters of nanoGPT's meta.pkl, which is beside the train.bin and val.bin of its character data."""

    file: str = ""  # the meta.pkl that nanoGPT's prepare.py wrote
    sha256: str = ""  # of the file; filled in

    def __post_init__(self) -> None:
        path = Path(self.file).expanduser()
        require(path.is_file(), "file", self.file, "no such file", "give the path of a meta.pkl")
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Return the tokenizer of the file; raises UserError where it holds anything but characters and ids."""
        path, todo = Path(self.file).expanduser(), "give the meta.pkl of a prepare.py of nanoGPT"
        try:
            meta = _PlainUnpickler(io.BytesIO(read_bounded(path, MOST_META))).load()
            characters = [meta["itos"][i] for i in range(len(meta["itos"]))]
            known = all(type(c) is str and len(c) == 1 for c in characters)
            same = {c: i for i, c in enumerate(characters)} == meta["stoi"]
        except Exception as error:  # what is damaged can raise anything
            why = f"cannot be read as characters and their ids ({reason(error)})"
            raise UserError("tokenizer.file", self.file, why, todo) from error
        require(known and same, "tokenizer.file", self.file, "its itos and stoi are not characters and ids", todo)
        return CharTokenizer("".join(characters))


class _PlainUnpickler(pickle.Unpickler):
    """Read a pickle of dicts, lists, text and numbers; one that names a class or function is refused, so none runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not read")


class CharTokenizer(Tokenizer, kind="char"):
    """A tokenizer with one id per character; a character not in `characters` becomes UNKNOWN and decodes to U+FFFD.

    A `closed` one has the ids of the characters alone, as a model has that was trained without any others: unknown
    characters are left out, a line's end (or else the first character) stands before a text, and nothing ends one.
    """

    def __init__(self, characters: str, closed: bool = False) -> None:
        self.characters, self.closed, n = characters, closed, len(characters)
        self.ids = {c: i for i, c in enumerate(characters)}
        self.n_vocab, self.eot_is_text = (n if closed else n + 2), closed
        self.eot, self.unknown = (self.ids.get("\n", 0), None) if closed else (n, n + 1)
        self.pieces = [*characters, *([] if closed else [EOT, "\ufffd"])]
        points = np.array([ord(c) for c in characters], np.int64)
        self.table = np.full(0x110000, n + 1, np.uint32)  # code point -> id
        self.table[points] = np.arange(n)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if self.unknown is None:
            return [[self.ids[c] for c in text if c in self.ids] for text in texts]
        return [[self.ids.get(c, self.unknown) for c in text] for text in texts]

    def encode_array(self, text: str) -> Ids:
        found = self.table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]
        return found[found < self.n_vocab]

    def unspelled(self, text: str, ids: Ids) -> int:
        return len(text) - len(ids) if self.closed else super().unspelled(text, ids)

    def last_cut(self, text: str) -> int:
        return len(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return "".join(self.pieces[i] for i in ids).encode()

    def hf_definition(self) -> str:
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HFTokenizer

        if self.closed:
            hf = HFTokenizer(models.BPE(self.ids, []))  # which leaves out what is not in the vocabulary
        else:
            ids = self.ids | {EOT: self.eot, UNKNOWN: len(self.characters) + 1}
            hf = HFTokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
            hf.add_special_tokens([EOT, UNKNOWN])
        hf.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        hf.decoder = decoders.Fuse()
        definition: str = hf.to_str()
        return definition

    def special_token(self, token: int) -> str | None:
        return None if self.closed else {self.eot: EOT, self.unknown: UNKNOWN}.get(token)

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters, **({"closed": True} if self.closed else {})}

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "CharTokenizer":
        return cls(state["characters"], state.get("closed", False))
