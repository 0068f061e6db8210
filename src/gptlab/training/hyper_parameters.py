"""Turn the parts of a module into the plain values that a checkpoint holds of them, and back."""

from dataclasses import asdict
from typing import Any

from gptlab.errors import UserError
from gptlab.registry import option_of, options


def settings(part: Any) -> dict[str, Any]:
    """Return a part as plain values: the name it is registered under, and its fields."""
    option = option_of(part)
    return {
        "option": option[1] if option else None,
        "values": asdict(part) if hasattr(part, "__dataclass_fields__") else {},
    }


def part_of(group: str, saved: dict[str, Any]) -> Any:
    """Return the part that `settings` gave; raises UserError where it is not registered here."""
    kind = options(group).get(saved["option"])
    if kind is None:
        raise UserError(group, saved["option"], "is not an option here", "enable the plugin that has it")
    return kind(**saved["values"])
