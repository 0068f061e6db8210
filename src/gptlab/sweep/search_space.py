"""Read what a search draws from: the overrides of a sweep, of which each that has several values is a parameter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from hydra.core.override_parser.types import Override

from gptlab.errors import require


class Trial(Protocol):
    """The part of Optuna's trials that draws values; what it has drawn before it returns again."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Parameter:
    """A key that is searched: one of some `values`, as texts, or a number from `low` to `high`, both included."""

    key: str
    values: tuple[str, ...] = ()  # of a range too: what a grid takes
    low: float | None = None  # integers of a whole one; None: the values have no order
    high: float = 0.0
    step: float | None = None
    log: bool = False

    def suggest(self, trial: Trial) -> str:
        """Return the override that a trial draws."""
        if self.low is None:
            return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, step=step, log=self.log)}"
        return f"{self.key}={trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)!r}"

    @property
    def first(self) -> str:
        """The override of its first or lowest value."""
        return f"{self.key}={self.values[0] if self.values else self.low}"

    def grid(self) -> list[Any]:
        """Return all of its values, as a trial draws them."""
        todo = "give its values: choice(...), range(...), a,b,c; or choose tpe or random"
        require(bool(self.values), "hydra.sweeper.sampler", "grid", f"{self.key} is an interval", todo)
        if self.low is None:
            return list(self.values)
        return [int(value) if isinstance(self.low, int) else float(value) for value in self.values]


def space_of(overrides: Sequence[Override]) -> list[str | Parameter]:
    """Return the overrides in their order: those of one value as text, the others as parameters.

    Of a key that is given twice the last one counts.
    """
    last = {each.get_key_element(): each for each in overrides}
    return [_parameter(each) if each.is_sweep_override() else _fixed(each) for each in last.values()]


def _fixed(override: Override) -> str:
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _parameter(override: Override) -> Parameter:
    key, sweep = override.get_key_element(), cast(Any, override.value())
    text, todo = str(override.input_line).partition("=")[2], "give interval(LOWEST, HIGHEST)"
    if override.is_discrete_sweep():
        why = "draws evenly from its values, which tag(log, ...) does not change"
        require("log" not in sweep.tags, key, text, why, "leave the tag out, or give tag(log, interval(...))")
        values = tuple(dict.fromkeys(override.sweep_string_iterator()))
        if override.is_range_sweep() and not sweep.shuffle and sweep.step > 0 and len(values) > 1:
            kind = int if all(isinstance(each, int) for each in (sweep.start, sweep.stop, sweep.step)) else float
            return Parameter(key, values, kind(values[0]), kind(values[-1]), kind(sweep.step))
        return Parameter(key, values)
    low, high = sweep.start, sweep.end
    known = all(end is None or math.isfinite(end) or math.isnan(end) for end in (low, high))
    require(known, key, text, "has no end", todo)
    require(low is not None and high is not None and low < high, key, text, "is empty", todo)
    log = "log" in sweep.tags
    require(not log or low > 0, key, text, "has no logarithm at its lower end", "let it begin above 0")
    return Parameter(key, (), low, high, None, log)
