"""Read what a page asks: JSON into a dataclass, every key and type of it checked."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar, Union

from gptlab.data.text.conversations import whole_text
from gptlab.decoding.decoders import Beam, Decoder
from gptlab.errors import UserError, reason, require, require_choice
from gptlab.registry import options

T = TypeVar("T")
MOST_NEW_TOKENS = 2000
MOST_BEAMS = 64
MOST_SEED = 2**53  # beyond it, a page's numbers are no longer whole
NAMES: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass
class _Decoding:
    """The decoder that a page asks for, by its name and its own settings."""

    decoder: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        known = options("decoder")
        require_choice("decoder", self.decoder, known)
        self.built: Decoder | Beam = _built(self.decoder, known[self.decoder], self.settings)


def _built(name: str, part: type[Any], settings: Mapping[str, Any]) -> Any:
    """Return a decoder with its settings."""
    try:
        found = typed(part, settings)
    except UserError:
        raise
    except Exception as error:  # a decoder of another package raises its own
        raise UserError("decoder", name, f"cannot be built ({reason(error)})", "change its settings") from error
    if isinstance(found, Beam):
        require(found.beams <= MOST_BEAMS, "beams", found.beams, f"is more than {MOST_BEAMS}", "4 is usual")
    return found


@dataclass
class Writing(_Decoding):
    """A text to be written: what continues a prompt, or answers it in a chat."""

    run: str  # the name of one of those that are served
    prompt: str
    seed: int = 1337
    max_new_tokens: int = 100
    chat: bool = False
    system: str | None = None  # what the system says first, in a chat
    said: list[str] = field(default_factory=list)  # before the prompt, in a chat: the user's and the model's, in turn

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.prompt != "", "prompt", "''", "is empty", "give some text")
        most = self.max_new_tokens
        require(
            1 <= most <= MOST_NEW_TOKENS, "max_new_tokens", most, f"is not in 1 to {MOST_NEW_TOKENS}", "100 is usual"
        )
        require(0 <= self.seed < MOST_SEED, "seed", self.seed, f"is not in 0 to {MOST_SEED - 1}", "try 1337")
        alone = "system" if self.system is not None else "said" if self.said else ""
        require(self.chat or not alone, alone, "given", "goes with chat", "leave it out")
        require(len(self.said) % 2 == 0, "said", f"{len(self.said)} messages", "do not end with an answer", "give it")


@dataclass
class Looking(_Decoding):
    """A token of a text to be looked at: what was likely in its place, and where attention goes."""

    run: str
    ids: list[int]  # of the text
    at: int  # position of the token; that behind the last one asks what may come next
    layer: int | None = None  # null: the mean over all layers
    head: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.ids), "ids", "[]", "are no text", "give some")
        require(0 <= self.at <= len(self.ids), "at", self.at, f"is not in 0 to {len(self.ids)}", "give a position")


def read(kind: type[T], body: bytes) -> T:
    """Return what the JSON of a request asks for; raises UserError for whatever is not as it must be."""
    try:
        values = json.loads(body, parse_constant=_refused)
    except (ValueError, RecursionError):
        raise UserError("body", f"{len(body)} bytes", "are no JSON", "send an object") from None
    require(isinstance(values, dict), "body", type(values).__name__, "is no object", "send one")
    return typed(kind, values)


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return a dataclass with the given values; raises UserError for unknown keys, missing ones and other types."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        require(key in fields, key, _short(value), "no such key", f"choose one of {', '.join(fields)}")
        _require_type(key, value, hints[key])
    for key, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        require(not needed or key in values, key, "null", "is missing", "give it")
    return kind(**values)


def _require_type(key: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type than a field's; a whole number is a number, and true is none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is not None or type(None) not in inner:
            _require_type(key, value, next(each for each in inner if each is not type(None)))
    elif origin is list:
        require(isinstance(value, list), key, _short(value), "is no list", "give one")
        for each in value:
            _require_type(key, each, inner[0])
    elif hint is str:
        whole_text(value, key, lambda why, todo: UserError(key, _short(value), why, todo))
    elif hint is float:
        number = type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
        require(number, key, _short(value), "is no number", f"give {NAMES[float]}")
    elif hint in NAMES:
        require(type(value) is hint, key, _short(value), "is of another type", f"give {NAMES[hint]}")
    elif isinstance(origin or hint, type):
        kind = origin or hint
        require(isinstance(value, kind), key, _short(value), f"is no {kind.__name__}", "give one")


def _short(value: Any) -> str:
    """Return a value for a line about it."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:40]} ... {shown[-10:]}"
