"""Load any tokenizer.json of Hugging Face, unchanged."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded
from gptlab.registry import option
from gptlab.tokenizers.base import EOT, MOST_BYTES, Declared, Ids, Tokenizer, panics
from gptlab.tokenizers.spelling import spelling


@option("tokenizer", "json")
@dataclass
class JSONFile:
    """A Hugging Face tokenizer.json, unchanged; `eot` names its token between documents."""

    file: str = ""  # a tokenizer.json
    eot: str = EOT  # the token that ends a document
    sha256: str = ""  # of the file; filled in

    def __post_init__(self) -> None:
        path = Path(self.file).expanduser()
        require(path.is_file(), "file", self.file, "no such file", "give the path of a tokenizer.json")
        try:
            self.sha256 = hashlib.sha256(read_bounded(path, MOST_BYTES)).hexdigest()
        except OSError as error:
            raise UserError("file", self.file, f"cannot be read ({reason(error)})", "give a whole file") from error

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Return the tokenizer of the file; raises UserError if the file is not one, or has no token `eot`."""
        try:
            tokenizer = JSONTokenizer(Path(self.file).expanduser().read_text(encoding="utf-8"), 0)
        except Exception as error:  # the library raises bare ones
            why = f"is not a tokenizer.json ({reason(error)})"
            raise UserError("tokenizer.file", self.file, why, "give one of a Hugging Face model") from error
        found = tokenizer.tokenizer.token_to_id(self.eot)
        if found is None:
            raise UserError("tokenizer.eot", self.eot, "no such token", "name the one that ends a document")
        tokenizer.eot = found
        return tokenizer


class JSONTokenizer(Tokenizer, kind="json"):
    """A tokenizer by the text of its tokenizer.json; `eot` is the id before a document.

    Special tokens spell nothing in a text; `spell` shows them by name.
    """

    def __init__(self, definition: str, eot: int) -> None:
        from tokenizers import Tokenizer as HFTokenizer

        self.definition, self.eot = definition, eot
        self.tokenizer = HFTokenizer.from_str(definition)
        self.tokenizer.encode_special_tokens = True  # special tokens in a text are ordinary text
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        read = json.loads(definition)
        self.spelling = spelling(read)
        self.first_differs = self.spelling is not None and self.spelling.first != "as it is"
        vocab = self.tokenizer.get_vocab(with_added_tokens=True)
        self.unknown = vocab.get(read["model"].get("unk_token"))
        added = self.tokenizer.get_added_tokens_decoder()
        self.names = {i: each.content for i, each in added.items() if each.special}
        self.n_vocab = max(vocab.values()) + 1

    def declare(self, declared: Declared) -> None:
        """Take over what is declared; an id beyond the vocabulary that ends a text makes it larger."""
        self.declared = declared
        self.n_vocab = max(self.n_vocab, self.eot + 1, *(each + 1 for each in declared.ends))

    def special_token(self, token: int) -> str | None:
        return self.names.get(token)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {name: i for i, name in self.names.items()}

    def encode_within(self, text: str) -> list[int]:
        """Return the ids of a text behind a special token, where a first token is not spelled in its own way."""
        anchor = next(iter(self.names.values()), None)
        if not self.first_differs or anchor is None or any(name in text for name in self.names.values()):
            return self.encode(text)
        self.tokenizer.encode_special_tokens = False
        try:
            with panics("tokenizer.json"):
                return self.tokenizer.encode(anchor + text, add_special_tokens=False).ids[1:]
        finally:
            self.tokenizer.encode_special_tokens = True

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with panics("tokenizer.json"):
            return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        if self.spelling is not None:
            return self.spelling.bytes_of(ids)
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).encode()

    def decode_part(self, ids: Sequence[int], begins: bool) -> bytes:
        return self.decode_bytes(ids) if self.spelling is None else self.spelling.bytes_of(ids, begins)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without the special tokens, as transformers does with skip_special_tokens."""
        return super().decode([i for i in ids if i not in self.names])

    def unspelled(self, text: str, ids: Ids) -> int:
        """Return how many characters are not spelled: unknown ones, and those that a normalizer has changed."""
        spelled = self.decode_bytes(ids.tolist()).decode("utf-8", "replace")
        if spelled.removeprefix(" ") == text.removeprefix(" "):
            return 0
        return (Counter(text) - Counter(spelled)).total() or 1

    def spell(self, token: int) -> str:
        if self.spelling is None or token >= len(self.spelling.pieces):
            return super().spell(token)
        piece = self.spelling.pieces[token].decode("utf-8", errors="backslashreplace")
        return self.names.get(token, piece)

    def hf_definition(self) -> str:
        return self.definition

    def state(self) -> dict[str, Any]:
        return {"eot": self.eot, "definition": self.definition}

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "JSONTokenizer":
        return cls(state["definition"], state["eot"])
