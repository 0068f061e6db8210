"""Build typed configs, and the schemas that Hydra checks them by.

OmegaConf accepts neither protocols nor abstract classes as annotations. Each config dataclass therefore has a twin with
the same fields and defaults, whose parts may be anything; the composed twin becomes the real class at the end.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Union

from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from gptlab import registry
from gptlab.errors import UserError, require

_PRIMITIVES = (int, float, bool, str)


@functools.cache
def _hints(config_type: type) -> dict[str, Any]:
    return typing.get_type_hints(config_type)


@functools.cache
def part_fields(config_type: type) -> dict[str, str | None]:
    """Return the fields of a verb's config that groups choose, each with its default option, or None for no part."""
    found: dict[str, str | None] = {}
    hints = _hints(config_type)
    for f in dataclasses.fields(config_type):
        if f.name in registry.groups() and _plain(hints[f.name]) is Any:
            default = _default(f)
            named = registry.option_of(default) if default is not None else None
            assert default is None or named is not None, f"{config_type.__name__}.{f.name} has no registered default"
            found[f.name] = named[1] if named else None
    return found


@functools.cache
def schema_of(config_type: type) -> type:
    """Return the twin of a config dataclass; the parts of a verb's config have no value until they are chosen."""
    chosen = part_fields(config_type) if registry.option_of(config_type) is None else {}
    hints = _hints(config_type)
    fields: list[Any] = []
    for f in dataclasses.fields(config_type):
        default = MISSING if chosen.get(f.name) else _default(f)
        if isinstance(default, list | dict) or dataclasses.is_dataclass(default):
            given = dataclasses.field(default_factory=functools.partial(_twin, default))
        else:
            given = dataclasses.field(default=default)
        fields.append((f.name, _plain(hints[f.name]), given))
    # in the class itself: a job pickled for another machine needs it there
    return dataclasses.make_dataclass(config_type.__name__, fields, namespace={"original": config_type})


def checked(config_type: type, values: dict[str, Any]) -> Any:
    """Make a config of its values; raises UserError for values that it refuses."""
    _require_finite(values, config_type)
    return config_type(**values)


def unchecked(config_type: type, values: dict[str, Any]) -> Any:
    """Make a config of its values, also of those that it refuses: such as a run that has to be named, and is not."""
    try:
        return checked(config_type, values)
    except UserError:
        config: Any = object.__new__(config_type)
        vars(config).update(values)
        return config


def to_typed(node: Any, made: Callable[[type, dict[str, Any]], Any] = checked) -> Any:
    """Return a composed node as plain objects at every depth; an error in a part is reported by its full key.

    `made` makes an object of a config's class and values.
    """
    if isinstance(node, ListConfig):
        return [to_typed(each, made) for each in node]
    if not isinstance(node, DictConfig):
        return node
    values: dict[str, Any] = {}
    for key in map(str, node):
        require(not OmegaConf.is_missing(node, key), key, "???", "is needed", f"give {key}=...")
        try:
            values[key] = to_typed(node[key], made)
        except UserError as error:
            raise error.within(key) from error
    config_type = getattr(OmegaConf.get_type(node), "original", None)
    if config_type is None:
        return values
    return made(config_type, values)


def _require_finite(values: dict[str, Any], config_type: type) -> None:
    """Refuse nan and infinity in the fields of a config, unless such is a field's default."""
    for f in dataclasses.fields(config_type):
        value = values.get(f.name)
        for number in value if isinstance(value, list) else [value]:
            ok = not isinstance(number, float) or math.isfinite(number) or number == f.default
            require(ok, f.name, number, "is no finite number", "give one such as 0.1")


def require_known(cfg: DictConfig, within: str = "") -> None:
    """Refuse keys that no config uses: Hydra lets `+key=value` add anything."""
    config_type: Any = OmegaConf.get_type(cfg)
    fields = {f.name for f in dataclasses.fields(config_type)} if dataclasses.is_dataclass(config_type) else None
    for name in map(str, cfg):
        key = f"{within}{name}"
        child = None if OmegaConf.is_missing(cfg, name) else cfg[name]
        require(fields is None or name in fields, key, child, "no such key", "--help lists all")
        if isinstance(child, DictConfig):
            require_known(child, f"{key}.")


def field_types(key: str, config_type: type) -> set[Any]:
    """Return the types that a key may have, over all options of the groups in it; none if there is no such key."""
    first, _, rest = key.partition(".")
    hints = _hints(config_type)
    if first not in hints:
        return set()
    if not rest:
        return {hints[first]}
    if first in part_fields(config_type):
        inner = set(registry.options(first).values())
    else:
        inner = {t for t in (hints[first], *typing.get_args(hints[first])) if isinstance(t, type)}
        inner = {t for t in inner if dataclasses.is_dataclass(t)}
    return set().union(*(field_types(rest, each) for each in inner))


def _plain(hint: Any) -> Any:
    """Return the annotation that stands for a field's in OmegaConf."""
    if hint in _PRIMITIVES:
        return hint
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = [_plain(each) for each in arguments if each is not type(None)]
        simple = (len(inner) == 1 and inner[0] is not Any) or all(each in _PRIMITIVES for each in inner)
        return hint if all(each in _PRIMITIVES for each in inner) else inner[0] | None if simple else Any
    if typing.get_origin(hint) in (list, dict):
        return typing.get_origin(hint)[*(_plain(each) for each in arguments)]
    if (
        isinstance(hint, type)
        and dataclasses.is_dataclass(hint)
        and not any(issubclass(p, hint) for p in _registered())
    ):
        return schema_of(hint)
    return Any


def _registered() -> list[type]:
    return [part for group in registry.groups() for part in registry.options(group).values()]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return MISSING if field.default is dataclasses.MISSING else field.default


def _twin(value: Any) -> Any:
    """Return a default value in which each dataclass is replaced by its twin."""
    if isinstance(value, list):
        return [_twin(each) for each in value]
    if isinstance(value, dict):
        return {key: _twin(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _twin(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return schema_of(type(value))(**fields)
    return value
