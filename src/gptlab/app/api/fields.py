"""Read the fields of a request, each within its bounds; a mistake names its field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gptlab.app.api.errors import ApiError
from gptlab.data.text.conversations import whole_text
from gptlab.errors import UserError

MOST_STOPS = 16  # OpenAI allows 4


class Fields:
    """The fields of a JSON object; null is as good as none. `finish` refuses those that were not taken."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ApiError(400, "the body is no JSON object")
        self._values: dict[str, Any] = {key: value for key, value in body.items() if value is not None}

    def take(self, name: str, usual: Any = None) -> Any:
        """Return the value of a field as it is."""
        return self._values.pop(name, usual)

    def text(self, name: str, usual: str | None = None) -> str | None:
        """Return a text."""
        value = self.take(name)
        return usual if value is None else whole(value, name)

    def number(self, name: str, usual: float, least: float, most: float) -> float:
        """Return a number in [least, most]."""
        value = self.take(name, usual)
        known = type(value) in (int, float) and not math.isnan(value)
        if not known or not least <= value <= most:
            raise ApiError(400, f"{name} must be a number from {least:g} to {most:g}, and is {shown(value)}", name)
        return float(value)

    def integer(self, name: str, usual: int | None, least: int, most: int) -> int | None:
        """Return a whole number in [least, most]."""
        value = self.take(name)
        if value is None:
            return usual
        if type(value) is not int or not least <= value <= most:
            raise ApiError(400, f"{name} must be an integer from {least} to {most}, and is {shown(value)}", name)
        return value

    def switch(self, name: str) -> bool:
        """Return true or false, which is usual."""
        value = self.take(name, False)
        if not isinstance(value, bool):
            raise ApiError(400, f"{name} must be true or false, and is {shown(value)}", name)
        return value

    def stops(self) -> list[str]:
        """Return the strings before which a text ends."""
        value = self.take("stop", [])
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list) or len(given) > MOST_STOPS:
            raise ApiError(400, f"stop must be a string, or a list of at most {MOST_STOPS}", "stop")
        found = [whole(each, "stop") for each in given]
        if "" in found:
            raise ApiError(400, "stop has an empty string, which is everywhere", "stop")
        return found

    def refuse(self, name: str, allowed: Sequence[Any] = ()) -> None:
        """Refuse a field that is known, but not supported, unless its value asks for nothing."""
        value = self.take(name)
        if value is not None and value not in allowed:
            raise ApiError(400, f"{name} is not supported", name, "unsupported_parameter")

    def finish(self) -> None:
        """Refuse what is left."""
        if self._values:
            name = next(iter(self._values))
            raise ApiError(400, f"Unrecognized request argument supplied: {name}", name, "unknown_parameter")


def whole(value: Any, name: str) -> str:
    """Return a value that must be a text of whole characters."""
    try:
        return whole_text(value, name, lambda why, todo: UserError(name, "?", why, todo))
    except UserError as error:
        raise ApiError(400, f"the request {error.why}", name) from error


def shown(value: Any) -> str:
    """Return a value in short."""
    text = repr(value) if not isinstance(value, dict | list) else f"{type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
