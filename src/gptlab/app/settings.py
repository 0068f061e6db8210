"""Describe decoders as forms: each field of a decoder's dataclass becomes a slider, a box or a field of text."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

from gptlab.commands.explanations import explanation, summary
from gptlab.errors import UserError
from gptlab.registry import options

KINDS: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "str"}


def decoder_forms() -> dict[str, dict[str, Any]]:
    """Return {"about", "settings"} of each decoder, those of plugins too; a setting has its field's name and kind.

    A number has the ends and the step of its slider besides. Fields of other kinds keep their usual values.
    """
    return {name: {"about": summary(part), "settings": _settings(part)} for name, part in options("decoder").items()}


def _settings(part: Any) -> list[dict[str, Any]]:
    kinds, usual = typing.get_type_hints(part), part()
    found = []
    for field in dataclasses.fields(part):
        kind, value = KINDS.get(kinds[field.name]), getattr(usual, field.name)
        if kind is not None:
            about = {"name": field.name, "kind": kind, "usual": value, "about": explanation(part, field.name)}
            found.append(about | (_range(part, field.name, value) if kind in ("int", "float") else {}))
    return found


def _range(part: Any, name: str, usual: float) -> dict[str, float]:
    """Return the ends and the step of a slider: what the decoder itself refuses is not on it.

    A number whose values end at 1 is a share; others go to some times the usual value.
    """

    def taken(value: float) -> bool:
        try:
            part(**{name: value})
        except (UserError, ValueError):
            return False
        return True

    if isinstance(usual, int):
        least, step, most = 0.0 if taken(0) else 1.0, 1.0, max(4.0 * usual, 10.0)
    else:
        step = 10.0 ** min(-2, math.floor(math.log10(abs(usual)))) if usual else 0.01
        share = taken(1.0) and not taken(1.01)
        least, most = 0.0 if taken(0.0) else step, 1.0 if share else max(2.0, 2 * abs(usual))
    return {"least": min(least, usual), "most": most if taken(most) else usual, "step": step}
