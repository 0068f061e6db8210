"""Read metrics.csv as curves over steps, tokens, FLOPs and training time."""

import contextlib
import csv
import math
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from gptlab.batch_sizes import BatchSizes
from gptlab.planning.flops import flops_of_settings
from gptlab.runs.reader import RunRecord

FARTHEST = 10**15  # larger numbers are not steps
AXES = {"steps": "steps", "tokens": "tokens", "flops": "FLOPs", "seconds": "training time"}


class Points(Sequence[tuple[int, float]]):
    """The values of a metric, (step, value), by step; takes 8 bytes a value, and 8 a step unless `beside` has them."""

    def __init__(self, values: Mapping[int, float], beside: "Sequence[Points]" = ()) -> None:
        steps = array("q", sorted(values))
        self.steps: array[int] = next((each.steps for each in beside if each.steps == steps), steps)
        self.values = array("d", [values[step] for step in steps])

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return zip(self.steps, self.values, strict=True)

    @overload
    def __getitem__(self, place: int) -> tuple[int, float]: ...
    @overload
    def __getitem__(self, place: slice) -> list[tuple[int, float]]: ...
    def __getitem__(self, place: int | slice) -> tuple[int, float] | list[tuple[int, float]]:
        if isinstance(place, slice):
            return list(zip(self.steps[place], self.values[place], strict=True))
        return self.steps[place], self.values[place]


@dataclass
class Curves:
    """The metrics that a run has logged, and the size of a step in other units."""

    metrics: dict[str, Points]
    tokens_per_step: int  # of the first size
    flops_per_token: float | None
    sizes: BatchSizes = field(default_factory=lambda: BatchSizes(1))

    def tokens_at(self, step: float) -> float:
        """Return the tokens that were read by the end of a step; 0 where that is not known."""
        return self.tokens_per_step * (step if self.sizes.constant else self.sizes.start(int(step)) / self.sizes.first)

    def last(self, metric: str) -> float | None:
        """Return the last value of a metric; None if there is none."""
        points = self.metrics.get(metric)
        return points[-1][1] if points else None

    @property
    def steps(self) -> int:
        """The last step of the log."""
        return max((points[-1][0] for points in self.metrics.values() if points), default=0)

    def seconds_at(self, steps: list[int]) -> list[float]:
        """Return the training time until each step: the tokens between two logs over `train/tokens_per_second`.

        It is linear between logs, and continues at the last known speed after them; NaN if no speed was logged.
        """
        logged = [(step, speed) for step, speed in self.metrics.get("train/tokens_per_second", []) if speed > 0]
        if not logged or not self.tokens_per_step:
            return [math.nan] * len(steps)
        at, time = [0.0], [0.0]
        for step, speed in logged:
            time.append(time[-1] + (self.tokens_at(step) - self.tokens_at(at[-1])) / speed)
            at.append(step)
        beyond = max([*steps, int(at[-1])])
        at.append(beyond + 1)
        time.append(time[-1] + (self.tokens_at(beyond + 1) - self.tokens_at(at[-2])) / logged[-1][1])
        return [float(seconds) for seconds in np.interp(steps, at, time)]

    def over(self, axis: str, metric: str) -> tuple[list[float], list[float]]:
        """Return the curve of a metric: positions on an axis of AXES, and the finite values there."""
        points = [(step, value) for step, value in self.metrics.get(metric, []) if math.isfinite(value)]
        steps = [step for step, _ in points]
        if axis == "seconds":
            xs = self.seconds_at(steps)
        elif axis == "steps":
            xs = [float(step) for step in steps]
        else:
            unit = {"tokens": 1.0, "flops": self.flops_per_token or math.nan}[axis]
            xs = [self.tokens_at(step) * unit if self.tokens_per_step else math.nan for step in steps]
        known = [(x, value) for x, (_, value) in zip(xs, points, strict=True) if math.isfinite(x)]
        return [x for x, _ in known], [value for _, value in known]


def read_curves(run: RunRecord) -> Curves:
    """Read a run's metrics.csv as far as it was written; a line that is only half written is left out."""
    found: dict[str, dict[int, float]] = {}
    for row in _rows(run.text("metrics.csv")):
        try:
            step = int(row["step"])
            values = {key: float(value) for key, value in row.items() if key and value and key != "step"}
        except (KeyError, TypeError, ValueError):
            continue
        if not 0 <= step < FARTHEST:
            continue
        for key, value in values.items():
            found.setdefault(sys.intern(key), {})[step] = value  # the last value wins
    metrics: dict[str, Points] = {}
    for key, points in found.items():
        metrics[key] = Points(points, list(metrics.values()))
    return Curves(metrics, run.tokens_per_step, _flops_per_token(run), run.batch_sizes)


def _rows(text: str) -> Iterator[dict[str, str]]:
    whole, _, _ = text.replace("\0", "").rpartition("\n")  # an unfinished last line is left out
    with contextlib.suppress(csv.Error):  # an unterminated cell
        yield from csv.DictReader(whole.splitlines())


def _flops_per_token(run: RunRecord) -> float | None:
    tokens, flops = run.figure("tokens"), run.figure("flops")
    if tokens and flops:
        return flops / tokens
    parts = run.config.get("parts")
    option = parts.get("model", "gpt") if isinstance(parts, dict) else "gpt"
    return flops_of_settings(option, run.config.get("model"))
