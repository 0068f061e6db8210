"""Quote the values of a command line, so that Hydra's grammar accepts any text as it was typed."""

from __future__ import annotations

import functools
import keyword
import re
import types
import typing
from typing import Any, Union

from hydra.errors import HydraException, OverrideParseException

from gptlab import registry
from gptlab.config.hydra_internals import VALUE_FLAGS, in_quotes, parsed
from gptlab.config.schema import field_types, part_fields
from gptlab.errors import UserError, require

_OVERRIDE = re.compile(r"(?P<mark>\+{0,2})(?P<key>[\w$][\w$./@:-]*)=(?P<value>.*)", re.DOTALL)


def quoted(text: str) -> str:
    """Return a text as the value of an override, whatever characters it has."""
    literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)  # no interpolation
    return in_quotes(literal)


def unquoted(value: str) -> str:
    """Return the text of a quoted override value."""
    if not _is_quoted(value):
        return value
    return re.sub(r"(\\*)\\\$\{", lambda match: match[1][::2] + "${", parsed(value))


def quote_values(argv: list[str], config_type: type, multirun: bool = False) -> list[str]:
    """Return the overrides, with quotes around values that are text by their type or that Hydra's grammar cannot read.

    Quoted values, `null` and `${...}` stay as they are. With `multirun`, a value with commas is still a sweep over
    them.
    """
    after_flag = [i > 0 and argv[i - 1] in VALUE_FLAGS for i in range(len(argv))]
    return [arg if after else _quote(arg, config_type, multirun) for arg, after in zip(argv, after_flag, strict=True)]


def _quote(arg: str, config_type: type, multirun: bool) -> str:
    match = _OVERRIDE.fullmatch(arg)
    if arg.startswith("="):
        raise OverrideParseException(arg, "it has no key")
    if match is None:
        return arg
    mark, key, value = match.groups()
    if keyword.iskeyword(key):  # no field of a dataclass can be called so
        return _quote(f"{mark}{key}_={value}", config_type, multirun)
    if key == "debug":  # debug=nan is not a number
        return re.sub(r"\bnan\b", "'nan'", arg)
    if "@" in key or "/" in key:
        return arg  # the name of an option
    if key in registry.groups():
        if not mark and "null" in [each.strip() for each in value.split(",")] and key in part_fields(config_type):
            return _without(key, value, config_type)
        return f"{mark}{key}={_option(value, multirun)}"
    kinds = field_types(key, config_type)
    if _are_lists(kinds) and value.startswith("[") and "]" not in value and not multirun:
        raise UserError(key, value, "its bracket is not closed", f"close it: {key}={value}]")
    return f"{mark}{key}={_swept(value, kinds) if multirun else _single(value, kinds)}"


def _without(group: str, value: str, config_type: type) -> str:
    """Return the override that leaves a part out: Hydra has no null for a group on the command line."""
    needed, choices = part_fields(config_type)[group] is not None, ", ".join(registry.options(group))
    require(not needed, group, value, "is needed", f"choose one of {choices}")
    todo = f"sweep over the others, and run {group}=null beside it"
    require(value == "null", group, value, "a sweep cannot leave a part out", todo)
    return f"~{group}"


def _option(value: str, multirun: bool) -> str:
    """Return the name of an option; a number or a list is none, which Hydra says if it is a text."""
    if multirun and "," in value and value[:1] not in ("[", "{"):
        return ",".join(_option(each, False) for each in _elements(value))
    named = value in ("", "null") or (_reads(value) and not isinstance(parsed(value), int | float | list))
    return value if named else quoted(value)


def _are_lists(kinds: set[Any]) -> bool:
    """Tell whether a key takes lists of texts, of which one may be given without brackets."""
    return bool(kinds) and all(list[str] in _alternatives(kind) for kind in kinds)


def _swept(value: str, kinds: set[Any]) -> str:
    if _are_lists(kinds) and not re.match(r"null$|\[|\w+\(", value):
        return ",".join(f"[{each if _is_quoted(each) else quoted(each)}]" for each in _elements(value))
    if _reads(value):
        return value
    if "=" in value or "," not in value:  # the directory of a sweep job has both in its name
        return quoted(value)
    return ",".join(each if _reads(each) else quoted(each) for each in _elements(value))


def _single(value: str, kinds: set[Any]) -> str:
    texts = _are_lists(kinds)
    if value in ("", "null") or ("${" in value and _reads(value)):
        return value
    if _is_quoted(value):
        return f"[{value}]" if texts else value
    if kinds and all(_alternatives(kind) == {str} for kind in kinds):
        return quoted(value)
    if value.startswith("[") and value.endswith("]"):
        if not texts and _reads(value):
            return value
        found = _elements(value[1:-1]) if value[1:-1].strip() else []
        kept = [_is_quoted(each) or (not texts and _reads(each)) for each in found]
        return f"[{','.join(each if keep else quoted(each) for each, keep in zip(found, kept, strict=True))}]"
    if texts and not (_reads(value) and isinstance(parsed(value), dict)):
        return f"[{quoted(value)}]"
    if not _reads(value) or (kinds and all(str in _alternatives(kind) for kind in kinds)):
        return quoted(value)
    return value


def _alternatives(kind: Any) -> set[Any]:
    """Return the types of an annotation other than None."""
    union = typing.get_origin(kind) in (Union, types.UnionType)
    return set(typing.get_args(kind) if union else (kind,)) - {type(None)}


@functools.lru_cache(4096)
def _reads(value: str) -> bool:
    """Return whether Hydra's grammar accepts a value as it is."""
    try:
        parsed(value)
    except HydraException:
        return False
    return True


def _is_quoted(value: str) -> bool:
    if value[:1] not in ("'", '"'):
        return False
    try:
        return isinstance(parsed(value), str) and _is_whole(value)
    except HydraException:
        return False


def _is_whole(value: str) -> bool:
    """Return whether the quote at the beginning of a text is closed at its end and not before."""
    return re.fullmatch(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", value, re.DOTALL) is not None


def _elements(text: str) -> list[str]:
    """Return the parts between commas; a comma in quotes does not count."""
    found = re.findall(r"\s*('(?:[^'\\]|\\.)*'(?=\s*(?:,|$))|\"(?:[^\"\\]|\\.)*\"(?=\s*(?:,|$))|[^,]*)(?:,|$)", text)
    elements = [each.strip() for each in found]
    return elements[:-1] if not text.rstrip().endswith(",") and elements and elements[-1] == "" else elements
