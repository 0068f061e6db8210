"""Define the mistakes that a user can make and fix: one line each, no traceback."""

from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake of the user, in one line: `<key>=<value>: <why>; <what to do>`.

    A part names its own field; composing adds the group.
    """

    def __init__(self, key: str, value: Any, why: str, todo: str) -> None:
        self.key, self.value, self.why, self.todo = key, value, why, todo
        super().__init__(one_line(f"{key}={value}: {why}; {todo}"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the mistake go from one process to another."""
        return UserError, (self.key, self.value, self.why, self.todo)

    def within(self, group: str) -> "UserError":
        """Return the same mistake, named from one level further out: `k` becomes `decoder.k`."""
        return UserError(f"{group}.{self.key}", self.value, self.why, self.todo)


class RunFailed(RuntimeError):
    """The end of a run that fails in the middle: one line without a traceback, exit code 1."""


class Stopped(KeyboardInterrupt):
    """The end of a run that was asked to stop and has saved; `signal_number` is None after a time limit."""

    def __init__(self, signal_number: int | None = None) -> None:
        self.signal_number = signal_number
        super().__init__("stopped")


def reason(error: BaseException) -> str:
    """Return the reason of an exception in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def printable(text: str) -> str:
    """Return a text for a line of a terminal or a page: what cannot be shown is written as Python does, \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, most: int = 2000) -> str:
    """Return a text as one line of a terminal, without the middle of a long one."""
    return printable(text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}")


def require(ok: bool, key: str, value: Any, why: str, todo: str) -> None:
    """Raise UserError unless `ok`."""
    if not ok:
        raise UserError(key, value, why, todo)


def require_choice(key: str, value: Any, choices: Iterable[str]) -> None:
    """Raise UserError unless the value is one of the choices, which the message lists."""
    known = list(choices)
    require(value in known, key, value, "no such option", f"choose one of {', '.join(known)}")


def require_port(port: int) -> None:
    """Raise UserError unless a number can be a port's; 0 is any that is free."""
    require(0 <= port < 65536, "port", port, "is no port", "give 0 to 65535")
