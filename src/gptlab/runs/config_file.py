"""Read and write a run's config.yaml: every value of its config and the name of each part, as data that is never run.

`record` makes it from typed objects, `read_config` reads it back as plain values, for files of every version of gptlab.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from gptlab import plugins, registry
from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded, write_atomically
from gptlab.version import VERSION

LAYOUT = 2  # raise when older versions cannot read what a run leaves
LARGEST = 1 << 20  # bytes
DEEPEST = 20  # levels
STEPS = 900  # of a budget that names nothing
NOT_VALUES = ("parts", "gptlab")  # what config.yaml says besides the values
_OLD_PART = re.compile(r"/schema/(\w+)@([a-z]\S*)")
_RENAMED = {"objective": "search_metric"}  # keys of layout 1


def record(config: Any) -> dict[str, Any]:
    """Return the content of config.yaml for a config: every value, the option of each part, and the version.

    Raises UserError if a part is not registered, or a text has `${` in it, which no reader would take literally.
    """
    values = dataclasses.asdict(config)
    values |= {"resume": None} if "resume" in values else {}
    values.pop("run_dir", None)
    for key, value in flat(values).items():
        held = "${" in str(value)
        require(not held, key, value, "has ${ in it, which config.yaml cannot hold", "give it another name")
    written = {"version": VERSION, "layout": LAYOUT, "plugins": plugins.described(_modules(config))}
    return {"parts": dict(_parts(config)), **values, "gptlab": written}


def write_config(path: Path, values: dict[str, Any]) -> None:
    """Write what `record` returned, whole or not at all."""
    write_atomically(path, as_yaml(values).encode())


def as_yaml(values: dict[str, Any]) -> str:
    """Return what `record` returned as the text of config.yaml."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of config.yaml in the present layout, also for runs that an older gptlab wrote.

    The file may come from anywhere, so it is treated only as data. Raises UserError, which names the file, if it is too
    large or too deep, repeats parts of itself by reference, or asks for something to be run or looked up.
    """
    try:
        content = read_bounded(path, LARGEST)
        values = _parsed(content)
    except Exception as error:  # PyYAML has bare ones for values of the wrong kind
        raise _refusal(path, f"cannot be read ({reason(error)})") from error
    _require(isinstance(values, dict), path, "does not hold keys with values")
    layout = values.get("gptlab", {}).get("layout", LAYOUT) if isinstance(values.get("gptlab"), dict) else 1
    _require(isinstance(layout, int) and layout <= LAYOUT, path, f"was written by a newer gptlab (layout {layout})")
    if "gptlab" not in values:
        values = _from_layout_1(values)
    _require("hydra" not in values, path, "has the key hydra")
    for key, value in _walk(values):
        _require(isinstance(key, str), path, f"has the key {key!r}, which is not a text")
        _require(key != "_target_", path, "has the key _target_")
        _require(not (isinstance(value, str) and "${" in value), path, f"has ${{ in the value of {key}")
    parts = values.setdefault("parts", {})
    named = isinstance(parts, dict) and all(isinstance(name, str) for name in parts.values())
    _require(named, path, "does not name its parts")
    return values


def values_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values alone, without the names of the parts and the version."""
    return {key: value for key, value in config.items() if key not in NOT_VALUES}


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return what `read_config` returned with the defaults of fields that its parts did not have when it was written.

    The default of a new field is what earlier versions did.
    """
    completed = dict(config)
    if isinstance(budget := config.get("budget"), dict):  # its default was not written down
        completed["budget"] = {**budget, **fixed_budget(budget)}
    for key, name in sorted(config["parts"].items()):  # a part before those in it
        *above, last = key.split(".")
        kind, holder = registry.options(key.partition(".")[0]).get(name), completed
        for field in above:
            if not isinstance(holder.get(field), dict):
                break
            holder[field] = holder = dict(holder[field])
        else:
            if kind is not None and isinstance(holder.get(last), dict):
                holder[last] = {**_defaults(kind), **holder[last]}
    return completed


def _defaults(kind: type) -> dict[str, Any]:
    """Return the default of each field of a dataclass that has one, as plain values."""
    found = dict[str, Any]()
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value: Any = field.default_factory()
            is_part = dataclasses.is_dataclass(value) and not isinstance(value, type)
            found[field.name] = dataclasses.asdict(value) if is_part else value
    return found


def flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Return the values of a config by their full keys; equal keys are one object, for there may be many configs."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{within}{key}.")
        else:
            found[sys.intern(f"{within}{key}")] = value
    return found


def given_budget(budget: dict[str, Any]) -> dict[str, float]:
    """Return the units in which a budget is given, with their amounts."""
    return {unit: amount for unit, amount in budget.items() if amount is not None and unit != "seconds_per_step"}


def fixed_budget(budget: dict[str, Any]) -> dict[str, float]:
    """Return the one unit that a budget holds fixed, with its amount."""
    return given_budget(budget) or {"steps": STEPS}


def _parts(config: Any, within: str = "") -> Iterator[tuple[str, str]]:
    """Return the full key and the option of each part in a config."""
    if isinstance(config, dict):
        inner = config
    elif dataclasses.is_dataclass(config) and not isinstance(config, type):
        inner = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    else:
        return
    for name, value in inner.items():
        key, named = f"{within}{name}", registry.option_of(value)
        if named:
            yield key, named[1]
        elif dataclasses.is_dataclass(value) and (key in registry.groups() or isinstance(config, dict)):
            kind = type(value).__name__
            raise UserError(key, kind, "is not registered", f'put @gptlab.option("{name}", NAME) above class {kind}')
        yield from _parts(value, f"{key}.")


def _modules(config: Any) -> Iterator[str]:
    """Yield the module of each registered part in a config."""
    inner: Any = config.values() if isinstance(config, dict) else ()
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        if registry.option_of(config):
            yield type(config).__module__
        inner = [getattr(config, f.name) for f in dataclasses.fields(config)]
    for value in inner:
        yield from _modules(value)


def _from_layout_1(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config in the present layout from one whose parts are class names in a defaults list."""
    defaults = values.get("defaults")
    found = [_OLD_PART.fullmatch(str(each)) for each in defaults] if isinstance(defaults, list) else []
    parts = {match[2]: _name_ofd(match[2].partition(".")[0], match[1]) for match in found if match}
    rest = {_RENAMED.get(str(key), key): value for key, value in values.items() if key != "defaults"}
    if "callbacks" in rest:
        parts.setdefault("callbacks", "monitor")
    return {"parts": parts, **rest}


def _name_ofd(group: str, class_name: str) -> str:
    """Return the option that a class of this name is registered as, or the name itself if there is none."""
    found = [name for name, part in registry.options(group).items() if part.__name__ == class_name]
    return found[0] if found else class_name


def _walk(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every key with its value, at any depth; the items of a list have the list's key."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield key, value
            for inner, each in _walk(value):
                yield (key if inner is None else inner), each
    elif isinstance(values, list):
        for value in values:
            yield None, value
            yield from _walk(value)


def _refusal(path: Path, why: str) -> UserError:
    return UserError("config", path, why, "take the config.yaml of a run as gptlab wrote it")


def _require(ok: bool, path: Path, why: str) -> None:
    if not ok:
        raise _refusal(path, why)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Composer(yaml.composer.Composer):
    """PyYAML's composer, without references and with a bound on nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):  # type: ignore[attr-defined]
            raise yaml.YAMLError("it refers to itself by *")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Loader(_Composer, yaml.SafeLoader):
    """PyYAML's safe loader, with that composer."""


_FastLoader: Any = None
if yaml.__with_libyaml__:  # which most builds of PyYAML have: it reads several times as fast
    _Parser: Any = yaml.cyaml.CParser  # type: ignore[attr-defined]

    class _LibyamlLoader(_Composer, _Parser, yaml.constructor.SafeConstructor, yaml.resolver.Resolver):  # type: ignore[misc]
        """The same by libyaml's parser."""

        def __init__(self, stream: Any) -> None:
            _Parser.__init__(self, stream)
            _Composer.__init__(self)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    _FastLoader = _LibyamlLoader


def _parsed(content: bytes) -> Any:
    """Return the values of YAML; raises what PyYAML does."""
    if _FastLoader is not None:
        with contextlib.suppress(yaml.YAMLError):  # it refuses more, such as half of a surrogate pair in a prompt
            return yaml.load(content, Loader=_FastLoader)
    return yaml.load(content, Loader=_Loader)
