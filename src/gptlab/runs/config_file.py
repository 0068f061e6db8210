"""A run's config.yaml, read as plain values: data that nothing composes or runs."""

import re
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason
from gptlab.files import read_bounded

LARGEST = 1 << 20  # bytes
MOST_VALUES = 100_000  # counted where they are used, so that references to references cannot explode
STEPS = 900  # of a budget that names nothing
NOT_VALUES = ("parts", "gptlab")  # what config.yaml says besides the values
_PART = re.compile(r"/schema/(\w+)@([a-z]\S*)")


def read_values(path: Path) -> dict[str, Any]:
    """Return the values of a config.yaml as they are written; raises UserError where it cannot be read."""
    import yaml  # omegaconf's own

    try:
        values = yaml.safe_load(read_bounded(path, LARGEST))
    except Exception as error:  # PyYAML has bare ones for values of the wrong kind
        raise _refusal(path, f"cannot be read ({reason(error)})") from error
    if not isinstance(values, dict):
        raise _refusal(path, "does not hold keys with values")
    _require_finite(path, values)
    return values


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of a config.yaml, and in `parts` the option of each part; raises UserError."""
    values = read_values(path)
    defaults = values.pop("defaults", None)
    found = [_PART.fullmatch(str(each)) for each in defaults] if isinstance(defaults, list) else []
    return {"parts": {match[2]: match[1].lower() for match in found if match}, **values}


def values_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values alone: without the names of the parts, and without who wrote them."""
    return {key: value for key, value in config.items() if key not in NOT_VALUES}


def flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Return the values of a config by their full keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{within}{key}.") if isinstance(value, dict) else {f"{within}{key}": value}
    return found


def given_budget(budget: dict[str, Any]) -> dict[str, float]:
    """Return the units in which a budget is given, with their amounts."""
    return {unit: amount for unit, amount in budget.items() if amount is not None and unit != "seconds_per_step"}


def fixed_budget(budget: dict[str, Any]) -> dict[str, float]:
    """Return the one unit that a budget holds fixed, with its amount."""
    return given_budget(budget) or {"steps": STEPS}


def _require_finite(path: Path, values: Any) -> None:
    """Refuse values that contain themselves, or so many references that they cannot be looked through."""
    waiting, seen = [(values, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or depth > 20:
            raise _refusal(path, "is nested too deep or has too many values")
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        waiting += [(value, depth + 1) for value in inner]


def _refusal(path: Path, why: str) -> UserError:
    return UserError("config", path, why, "take the config.yaml of a run as gptlab wrote it")
