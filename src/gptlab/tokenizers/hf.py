"""Load any tokenizer.json of Hugging Face, unchanged."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded
from gptlab.registry import option
from gptlab.tokenizers.base import EOT, MOST_BYTES, Tokenizer, panics


@option("tokenizer", "json")
@dataclass
class JSONFile:
    """A Hugging Face tokenizer.json, unchanged; `eot` names its token between documents."""

    file: str = ""
    eot: str = EOT
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
    """A tokenizer given by the text of its tokenizer.json; `eot` is the id that ends a document."""

    special = None

    def __init__(self, definition: str, eot: int) -> None:
        from tokenizers import Tokenizer as HFTokenizer

        self.definition, self.eot = definition, eot
        self.tokenizer = HFTokenizer.from_str(definition)
        self.tokenizer.encode_special_tokens = True  # special tokens in a text are ordinary text
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.n_vocab = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with panics("tokenizer.json"):
            return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False).encode()

    def hf_definition(self) -> str:
        return self.definition

    def state(self) -> dict[str, Any]:
        return {"eot": self.eot, "definition": self.definition}

    @classmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "JSONTokenizer":
        return cls(state["definition"], state["eot"])
