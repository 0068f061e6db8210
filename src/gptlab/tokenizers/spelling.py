"""The bytes that each token of a tokenizer.json spells, read from what the file says of its decoder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.tokenizers.letters import byte_of_letter

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Spelling:
    """The bytes of each token by its id, and how the first token of a text is spelled where that is special.

    Special tokens, and ids without a token, spell nothing; those of single bytes (<0x0A>) spell their byte even where
    the file calls them special, since text is encoded by them. `first` is `as it is`, `one space less` (SentencePiece's
    text begins with a space that nobody wrote) or `no spaces` (a Metaspace decoder drops all those of the first token).
    """

    pieces: list[bytes]
    first: str

    def bytes_of(self, ids: Sequence[int], begins: bool = True) -> bytes:
        """Return what ids spell; `begins` tells whether the first of them begins a text."""
        found = [self.pieces[i] for i in ids if i < len(self.pieces)]
        if begins and self.first != "as it is":
            at = next((n for n, piece in enumerate(found) if piece), None)
            if at is not None:
                piece = found[at]
                found[at] = piece.removeprefix(b" ") if self.first == "one space less" else piece.replace(b" ", b"")
        return b"".join(found)


def spelling(definition: dict[str, Any]) -> Spelling | None:
    """Return what the tokens of a tokenizer.json spell; None where its decoder is not one whose bytes are known."""
    vocab = definition["model"].get("vocab") or {}
    if isinstance(vocab, list):  # Unigram: (token, score) pairs, the id is the place
        vocab = {token: i for i, (token, _) in enumerate(vocab)}
    tokens = {int(i): token for token, i in vocab.items()}
    added = definition.get("added_tokens") or []
    tokens |= {int(each["id"]): each["content"] for each in added}
    special = {int(each["id"]) for each in added if each.get("special")}
    read = _reader(definition.get("decoder"))
    if read is None:
        return None
    decode, first = read
    before = definition.get("pre_tokenizer") or {}
    parts = before.get("pretokenizers", [before])
    if any(each.get("type") == "ByteLevel" and each.get("add_prefix_space") for each in parts):
        first = "one space less"
    pieces = [b""] * (max(tokens, default=-1) + 1)
    for i, token in tokens.items():
        if i not in special or (_falls_back(definition) and _BYTE.fullmatch(token)):
            pieces[i] = decode(token)
    return Spelling(pieces, first)


def _reader(decoder: Any) -> tuple[Any, str] | None:
    """Return what turns a token into its bytes, and how the first token of a text is spelled."""
    steps = decoder.get("decoders", [decoder]) if decoder else []
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level, "as it is"
    if kinds == ["Metaspace"]:
        space = steps[0]["replacement"]
        first = "as it is" if steps[0].get("prepend_scheme", "always") == "never" else "no spaces"
        return (lambda token: token.replace(space, " ").encode()), first
    replaced: list[tuple[str, str]] = []
    first, falls_back = "as it is", False
    for step, kind in zip(steps, kinds, strict=True):
        if kind == "Replace" and "String" in step["pattern"] and "Fuse" not in kinds[: kinds.index(kind)]:
            replaced.append((step["pattern"]["String"], step["content"]))
        elif kind == "ByteFallback":
            falls_back = True
        elif kind == "Strip" and "Fuse" in kinds[: kinds.index(kind)] and _strips_one(step):
            first = "one space less"
        elif kind != "Fuse":
            return None

    def decode(token: str) -> bytes:
        for old, new in replaced:
            token = token.replace(old, new)
        match = _BYTE.fullmatch(token) if falls_back else None
        return bytes([int(match[1], 16)]) if match else token.encode()

    return (decode, first) if "Fuse" in kinds else None


def _falls_back(definition: dict[str, Any]) -> bool:
    return bool(definition["model"].get("byte_fallback"))


def _strips_one(step: dict[str, Any]) -> bool:
    return (step.get("content"), step.get("start"), step.get("stop")) == (" ", 1, 0)


def _byte_level(token: str) -> bytes:
    """Return the bytes whose letters a token is; a token with any other character stands for itself."""
    found = [_BYTE_OF.get(letter) for letter in token]
    return token.encode() if None in found else bytes(byte for byte in found if byte is not None)


_BYTE_OF = byte_of_letter()
