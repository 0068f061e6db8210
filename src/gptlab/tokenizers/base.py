"""Define the interface of all tokenizers: text to ids and back, saved to a folder and loaded again by kind."""

import contextlib
import hashlib
import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from gptlab.checksums import require_listed, visible_files
from gptlab.errors import UserError, reason
from gptlab.files import read_bounded, read_json
from gptlab.registry import options

EOT = "<|endoftext|>"  # precedes every document
MOST_BYTES = 1 << 28  # bound on a file of a saved tokenizer
Ids = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Declared:
    """The tokens with a meaning that the files of an imported tokenizer declare, by their ids, and its chat templates.

    Templates are Jinja, as tokenizer_config.json has them: one, or several by name.
    """

    bos: int | None = None  # stands before a text
    adds_bos: bool = False  # whether the tokenizer itself puts it there
    ends: tuple[int, ...] = ()  # each of them ends a text; the first one is the tokenizer's own
    pad: int | None = None
    unk: int | None = None
    chat_template: str | dict[str, str] | None = None

    def state(self) -> dict[str, Any]:
        """Return what is declared, as JSON has it; {} where nothing is."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(Declared, name)}

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> "Declared":
        """Return what `state` gave; raises TypeError or ValueError where it is damaged."""
        found = cls(**{**state, "ends": tuple(state.get("ends", ()))})
        ids = [found.bos, found.pad, found.unk, *found.ends]
        if any(each is not None and (type(each) is not int or each < 0) for each in ids):
            raise ValueError("its special tokens are no ids")
        return found


class Tokenizer(ABC):
    """Turn text into ids and back: ids are 0 .. n_vocab-1, and `eot` stands before each document.

    Text that spells a special token is ordinary text. A subclass with a `kind` can be saved: with `class
    Words(Tokenizer, kind="words")`, `load_tokenizer` builds a Words from a tokenizer.json of that kind.
    """

    kinds: ClassVar[dict[str, type["Tokenizer"]]] = {}
    kind: ClassVar[str] = ""

    n_vocab: int
    eot: int
    eot_is_text: bool = False  # whether `eot` is a token of texts too: a text then has no end of its own
    unknown: int | None = None  # stands for every character that the vocabulary does not have
    declared: Declared = Declared()
    first_differs: bool = False  # whether the first token of a text is spelled in another way than elsewhere

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if not kind:
            return
        taken = Tokenizer.kinds.get(kind)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"tokenizers of kind {kind} are loaded by {taken.__module__}.{taken.__qualname__} already")
        Tokenizer.kinds[kind] = cls
        cls.kind = kind

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the UTF-8 bytes that ids spell."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the values that `load` needs besides the files of `save`, as JSON has them."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, state: dict[str, Any]) -> "Tokenizer":
        """Build the tokenizer that was saved in a folder with this state."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder: tokenizer.json with its kind and state, and what its files declared."""
        declared = self.declared.state()
        saved = {"kind": self.kind, **self.state(), **({"declared": declared} if declared else {})}
        (folder / "tokenizer.json").write_text(json.dumps(saved), encoding="utf-8")

    def hf_definition(self) -> str:
        """Return the same tokenizer as a Hugging Face tokenizer.json; raises UserError if there is none."""
        raise UserError("run", "its tokenizer", f"is a {type(self).__name__}", "it cannot be exported")

    def decode_part(self, ids: Sequence[int], begins: bool) -> bytes:
        """Return the bytes that ids spell where they begin a document, or do not."""
        return self.decode_bytes(ids)

    def declare(self, declared: Declared) -> None:
        """Take over what the tokenizer's files declare."""
        self.declared = declared

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that end a text, where a model draws them: those declared, else `eot`, if no text has it."""
        return self.declared.ends or (() if self.eot_is_text else (self.eot,))

    @property
    def end_of_document(self) -> int | None:
        """The id behind a document that another one follows; None where `eot` alone stands between the two."""
        return None if self.eot in self.ends or not self.ends else self.ends[0]

    @property
    def start(self) -> list[int]:
        """The ids before a prompt: bos, where the tokenizer puts it before every text."""
        return [self.eot] if self.declared.adds_bos else []

    def special_token(self, token: int) -> str | None:
        """Return how an exported vocabulary names a special token; None where it is an ordinary one."""
        return EOT if token == self.eot else None

    @property
    def special_tokens(self) -> dict[str, int]:
        """The ids of the special tokens by their names."""
        return {} if self.eot_is_text else {EOT: self.eot}

    def unspelled(self, text: str, ids: Ids) -> int:
        """Return how many characters of a text its ids do not spell."""
        return 0 if self.unknown is None else int((ids == self.unknown).sum())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.encode_batch([text])[0]

    def encode_within(self, text: str) -> list[int]:
        """Return the ids of a text that stands behind another one."""
        return self.encode(text)

    def encode_array(self, text: str) -> Ids:
        """Return the same ids as `encode`, (N,)."""
        return np.array(self.encode(text), np.uint32)

    def encode_arrays(self, texts: Sequence[str]) -> list[Ids]:
        """Return the ids of each text, as `encode_array` does."""
        return [self.encode_array(text) for text in texts]

    def last_cut(self, text: str) -> int:
        """Return the last position at which `text` can be cut without changing its tokens; 0 if that is not known."""
        return 0

    def spell(self, token: int) -> str:
        """Return one token by itself, readable; bytes that are not a whole character are written \\x.. ."""
        return self.decode_bytes([token]).decode("utf-8", errors="backslashreplace")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


class TokenizerConfig(Protocol):
    """A config dataclass of the group `tokenizer`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def build(self, texts: Iterable[str], size: int = 0) -> Tokenizer:
        """Build the tokenizer, from the training text (of about `size` bytes) if it is one that is trained."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer that `save` wrote into a folder; raises UserError if it is damaged or of unknown kind.

    Its files are compared with the list of checksums beside them, if there is one.
    """
    try:
        saved = read_json(folder / "tokenizer.json", MOST_BYTES)
        kind, declared = str(saved.pop("kind")), Declared.read(saved.pop("declared", {}))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _unreadable(folder, error) from error
    _require_listed(folder)
    loader = _loader(kind)
    if loader is None:
        todo = "enable the package that has it"
        raise UserError("tokenizer", folder, f"is of kind {kind}, which is not known here", todo)
    with panics(folder):
        try:
            tokenizer = loader.load(folder, saved)
            tokenizer.declare(declared)
            return tokenizer
        except UserError:
            raise
        except Exception as error:  # each library raises its own
            raise _unreadable(folder, error) from error


@contextlib.contextmanager
def panics(folder: Any) -> Iterator[None]:
    """Turn a panic of a library in Rust, which no `except Exception` catches, into a UserError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        why = f"its library gives up on it ({reason(error)})"
        raise UserError("tokenizer", folder, why, "take another tokenizer") from error


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of a saved tokenizer: of its files in the order of their names, hidden ones left out.

    Raises UserError where they are not as the list of checksums beside them says, and OSError where one is too large.
    """
    digest = hashlib.sha256()
    for path in visible_files(folder):
        digest.update(read_bounded(path, MOST_BYTES))
    _require_listed(folder)
    return digest.hexdigest()


def _require_listed(folder: Path) -> None:
    paths = [path for path in visible_files(folder) if path.stat().st_size <= MOST_BYTES]  # loading refuses the others
    if paths:
        require_listed("tokenizer", "take it from another copy of the run", *paths)


def _loader(kind: str) -> type[Tokenizer] | None:
    """Return the class of a kind, from this folder or an enabled package."""
    if kind not in Tokenizer.kinds:
        for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
            importlib.import_module(f"{__package__}.{module.name}")
    if kind not in Tokenizer.kinds:
        options("tokenizer")
    return Tokenizer.kinds.get(kind)


def _unreadable(folder: Path, error: Exception) -> UserError:
    why = f"cannot be read ({type(error).__name__}: {reason(error)})"
    return UserError("tokenizer", folder, why, "take it from another copy of the run")
