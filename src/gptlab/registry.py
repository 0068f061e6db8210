"""Register the parts that a config can choose, and find them by group and name when they are asked for."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Part = TypeVar("Part", bound=type)

_OPTIONS: dict[str, dict[str, type]] = {}
_NAMES: dict[type, tuple[str, str]] = {}
_REGISTERS = re.compile(r"^@(?:\w+\.)?(?:option|command)\(", re.MULTILINE)


def option(group: str, name: str) -> Callable[[Part], Part]:
    """Register a config dataclass as option `name` of a config group: `@option("decoder", "top_p")` above the class.

    Raises ValueError where another class has that name already.
    """

    def register(part: Part) -> Part:
        taken = _OPTIONS.setdefault(group, {}).get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (part.__module__, part.__qualname__):
            raise ValueError(f"{group}={name} is registered by {taken.__module__}.{taken.__qualname__} already")
        _OPTIONS[group][name] = part
        _NAMES[part] = (group, name)
        return part

    return register


def options(group: str) -> dict[str, type]:
    """Return the registered classes of a group by name."""
    import_own_parts()
    return dict(_OPTIONS.get(group, {}))


def groups() -> list[str]:
    """Return the names of all groups that have an option."""
    import_own_parts()
    return list(_OPTIONS)


def option_of(part: Any) -> tuple[str, str] | None:
    """Return the (group, name) under which a class, or the class of an object, is registered; None if it is not."""
    return _NAMES.get(part if isinstance(part, type) else type(part))


@functools.cache
def import_own_parts() -> None:
    """Import every module of gptlab that registers something: those whose source has an `@option(` line.

    They are found by their text, so that no list has to be kept and nothing else is imported.
    """
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path != Path(__file__) and _REGISTERS.search(path.read_text(encoding="utf-8")):
            importlib.import_module(".".join(("gptlab", *path.relative_to(package).with_suffix("").parts)))
