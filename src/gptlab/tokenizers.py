"""Text to token ids and back: byte-pair encodings, all served by `tiktoken`, characters, and any tokenizer.json."""

import base64
import hashlib
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from tiktoken_ext import openai_public

EOT = "<|endoftext|>"  # stands before every document
UNKNOWN = "<|unknown|>"  # a character that the training text does not have
GPT2_SPLIT = openai_public.r50k_pat_str  # GPT-2's words: the pieces in which bytes are merged
Ids = np.ndarray[Any, np.dtype[Any]]


class Tokenizer(ABC):
    """Ids are 0 .. n_vocab-1; `eot` separates documents. Text that spells a special token is ordinary text."""

    n_vocab: int
    eot: int

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...

    @abstractmethod
    def save(self, folder: Path) -> None: ...

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def spell(self, token: int) -> str:
        """One token by itself, for people to look at; bytes that are no whole character as \\x.. ."""
        return self.decode_bytes([token]).decode("utf-8", errors="backslashreplace")

    def encode_array(self, text: str) -> Ids:
        """The same ids, (N,)."""
        return np.array(self.encode(text), np.uint32)

    def last_cut(self, text: str) -> int:
        """The last place where `text` can be cut without a change of its tokens; 0: nobody can tell."""
        return 0

    def decode(self, ids: Sequence[int]) -> str:
        """Bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class BytePairTokenizer(Tokenizer):
    """Byte-level byte-pair encoding: `ranks` gives each token's id, the smaller the earlier it is merged."""

    def __init__(
        self, ranks: dict[bytes, int], split: str = GPT2_SPLIT, eot: int | None = None, n_vocab: int | None = None
    ) -> None:
        self.ranks, self.split = ranks, split
        self.eot = len(ranks) if eot is None else eot
        self.n_vocab = self.eot + 1 if n_vocab is None else n_vocab
        self.encoding = tiktoken.Encoding(
            "gptlab", pat_str=split, mergeable_ranks=ranks, special_tokens={EOT: self.eot}
        )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encoding.encode_ordinary_batch(list(texts))

    def encode_array(self, text: str) -> Ids:
        return self.encoding.encode_to_numpy(text, disallowed_special=())

    def last_cut(self, text: str) -> int:
        """Between a letter and a space, a line's end or a full-width stop: in all patterns used here a word ends there,
        and none looks behind itself."""
        for end in range(len(text), 0, -4096):
            begin = max(0, end - 4096 - 1)
            if found := [match.end() for match in _WORD_END.finditer(text, begin, end)]:
                return found[-1]
        return 0

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Ids between the tokens and n_vocab, which no text has, are spelled as nothing."""
        if self.n_vocab > self.eot + 1 or self.eot > len(self.ranks):
            ids = [i for i in ids if i < len(self.ranks) or i == self.eot]
        return self.encoding.decode_bytes(ids)

    def vocab_and_merges(self) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """The same encoding as GPT-2's files have it: ids by letters, and which two tokens each one was merged from."""
        letter_of = {byte: letter for letter, byte in _byte_of_letter().items()}
        spelled = {token: "".join(letter_of[b] for b in token) for token in self.ranks}
        merges = [
            (spelled[left], spelled[right])
            for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])
            if len(token) > 1
            for left, right in [self._merged_from(token, rank)]
        ]
        return {spelled[token]: rank for token, rank in self.ranks.items()}, merges

    def _merged_from(self, token: bytes, rank: int) -> tuple[bytes, bytes]:
        """Encode the token with all earlier merges: two parts are left."""
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            pairs = [self.ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts[0], parts[1]

    def save(self, folder: Path) -> None:
        """`ranks.tiktoken` is tiktoken's own format: a token in base64 and its id on each line."""
        lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in self.ranks.items()]
        (folder / "ranks.tiktoken").write_text("".join(lines))
        saved = {"kind": "byte_pair", "split": self.split, "eot": self.eot, "n_vocab": self.n_vocab}
        (folder / "tokenizer.json").write_text(json.dumps(saved))


class CharTokenizer(Tokenizer):
    """One id a character; a character not in `characters` becomes UNKNOWN and comes back as U+FFFD."""

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

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps({"kind": "char", "characters": self.characters}))


class JSONTokenizer(Tokenizer):
    """Any Hugging Face tokenizer.json, as it stands; `eot` is the id that ends a document."""

    def __init__(self, definition: str, eot: int) -> None:
        from tokenizers import Tokenizer as HFTokenizer

        self.definition, self.eot = definition, eot
        self.tokenizer = HFTokenizer.from_str(definition)
        self.tokenizer.encode_special_tokens = True  # text that spells one is ordinary text
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.n_vocab = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False).encode()

    def save(self, folder: Path) -> None:
        saved = {"kind": "json", "eot": self.eot, "definition": self.definition}
        (folder / "tokenizer.json").write_text(json.dumps(saved))


def from_gpt2_vocab(vocab: dict[str, int]) -> BytePairTokenizer:
    """GPT-2's vocab.json: letters for bytes, ids in the order of merging."""
    byte_of = _byte_of_letter()
    ranks = {bytes(byte_of[letter] for letter in token): i for token, i in vocab.items() if token != EOT}
    return BytePairTokenizer(dict(sorted(ranks.items(), key=lambda item: item[1])))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote."""
    saved = json.loads((folder / "tokenizer.json").read_text())
    if saved["kind"] == "char":
        return CharTokenizer(saved["characters"])
    if saved["kind"] == "json":
        return JSONTokenizer(saved["definition"], saved["eot"])
    lines = (folder / "ranks.tiktoken").read_bytes().splitlines()
    pairs = (line.split() for line in lines)
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    return BytePairTokenizer(ranks, saved["split"], saved.get("eot"), saved.get("n_vocab"))


def fingerprint(folder: Path) -> str:
    """SHA-256 of a saved tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_WORD_END = re.compile(r"[^\W\d_](?=[ \n。，])")


def _byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the rest for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(hidden)}
