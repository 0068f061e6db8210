"""Read a run's config.yaml back as a typed config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab import plugins, registry
from gptlab.config.schema import part_fields, schema_of, to_typed
from gptlab.errors import UserError
from gptlab.runs.config_file import read_config, values_of

ADVICE = "take the config.yaml of a run as gptlab wrote it"


def read_typed(path: Path, verb: str = "train") -> Any:
    """Return the typed config of a run's config.yaml; nothing in it is composed or run.

    Raises UserError, which names the file and the key, for what is not known or does not fit.
    """
    parts, cfg = read_nodes(path, verb)
    try:
        for key, node in parts.items():
            cfg[key] = node
        return to_typed(cfg)
    except UserError as error:
        raise _mistake(path, error) from error


def read_nodes(path: Path, verb: str = "train") -> tuple[dict[str, DictConfig], DictConfig]:
    """Return each part of a run's config with its values, by its key (`model`, `data`, ...), and the rest of it.

    A part that the file does not name is the default one. Raises UserError, which names the file, for an unknown part,
    an unknown key, or a value of the wrong type.
    """
    values = _without_classes(read_config(path), path)
    parts = _parts(values, path, verb)
    cfg: DictConfig = OmegaConf.structured(schema_of(registry.find_command(verb).config_type))
    try:
        cfg.merge_with({key: value for key, value in values_of(values).items() if key not in parts})
    except OmegaConfBaseException as error:
        raise _mistake(path, error) from error
    return parts, cfg


def _without_classes(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """Drop callbacks and loggers that are named by their class, and say so: no class is taken from a run directory."""
    for group in ("callbacks", "logger"):
        part = values.get(group)
        others = part.get("others") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(others, dict):
            continue
        named = [name for name, each in others.items() if not isinstance(each, dict) or "option" not in each]
        for name in named:
            line = f"{path}: {group}.others.{name} is left out: give its class again, +{group}.others.{name}._target_="
            print(line, file=sys.stderr)
        values = {**values, group: {**part, "others": {n: each for n, each in others.items() if n not in named}}}
    return values


def _parts(values: dict[str, Any], path: Path, verb: str) -> dict[str, DictConfig]:
    usual = part_fields(registry.find_command(verb).config_type)
    named = {key: name for key, name in usual.items() if name} | values["parts"]
    for key in values["parts"]:
        if key.partition(".")[0] not in usual:
            raise UserError(key, named[key], f"{path}: no such part", ADVICE)
    return {key: _node(key, values.get(key), named, path) for key in named if "." not in key}


def _node(key: str, values: Any, named: dict[str, str], path: Path) -> DictConfig:
    """Return a part with its values, and the parts in it, such as those of a mixture."""
    if (part := registry.options(key.partition(".")[0]).get(named[key])) is None:
        raise UserError(key, named[key], f"{path}: is not an option here", plugins.how_to_enable(read_config(path)))
    try:
        node: DictConfig = OmegaConf.structured(schema_of(part))
        values = dict(values) if isinstance(values, dict) else {}
        for other in named:
            field, _, name = other.removeprefix(f"{key}.").partition(".")
            if other.startswith(f"{key}.") and name and "." not in name and isinstance(values.get(field), dict):
                inner = dict(values[field])
                node[field][name] = _node(other, inner.pop(name, None), named, path)
                values[field] = inner
        node.merge_with(values)
    except OmegaConfBaseException as error:
        raise _mistake(path, error, f"{key}.") from error
    return node


def _mistake(path: Path, error: Exception, within: str = "") -> UserError:
    """Return the same mistake, with the name of the file that it is in."""
    if isinstance(error, UserError):
        return UserError(error.key, error.value, f"{path}: {error.why}", error.todo)
    key = str(getattr(error, "full_key", None) or "?")
    why = str(error).splitlines()[0]
    return UserError(f"{within}{key}", "?", f"{path}: {why}", ADVICE)
