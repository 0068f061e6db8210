"""Read `logger=[tensorboard,wandb]`: several loggers at once, where a group of Hydra has one option."""

import dataclasses
import re

from gptlab import registry
from gptlab.errors import require

_LIST = re.compile(r"logger=\[(.*)\]", re.DOTALL)
BESIDE = "csv"  # always kept: metrics.csv is the run's own record, which reports and resuming read


def each_logger(overrides: list[str]) -> list[str]:
    """Return overrides in which a list of loggers is said by the switches of the usual option; the others are off.

    Loggers of plugins become one of `logger.others`. Raises UserError for what is none.
    """
    found = list[str]()
    for override in overrides:
        match = _LIST.fullmatch(override)
        found += [override] if match is None else _switches(match[1])
    return found


def _switches(listed: str) -> list[str]:
    options = registry.options("logger")
    switches = [field.name for field in dataclasses.fields(options["tensorboard"]) if field.type in ("bool", bool)]
    names = [name.strip(" '\"") for name in listed.split(",")] if listed.strip() else []
    known = [*switches, *(name for name in options if name not in switches)]
    value = f"[{listed}]"
    require(bool(names), "logger", value, "names no logger", "give e.g. logger=[tensorboard,wandb], or logger=none")
    for name in names:
        todo = f"choose some of {', '.join(known)}"
        require(name in known, "logger", value, f"{name or '(nothing)'} is no logger", todo)
    own = [f"logger.{name}={str(name in (*names, BESIDE)).lower()}" for name in switches]
    others = [f"+logger.others.{name}.option={name}" for name in names if name not in switches]
    return ["logger=tensorboard", *own, *others]
