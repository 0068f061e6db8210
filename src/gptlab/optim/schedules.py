"""Define the learning-rate schedules: each a dataclass called as (step, steps) -> multiplier of the learning rate."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from gptlab.batch_sizes import MOST, BatchSizes, orderly
from gptlab.errors import require, require_choice
from gptlab.registry import option


class Schedule(Protocol):
    """A learning-rate schedule: a function from a step, counted from 0, of a run of `steps` steps to a multiplier.

    Ours have `batch` and `batch_power` besides, which say how the batch grows, and the rate with it.
    """

    def __call__(self, step: int, steps: int) -> float: ...


@option("schedule", "constant")
@dataclass
class Constant:
    """A linear warm-up, over a number of steps or a share of the run, then the full rate."""

    warmup_steps: int = 0  # steps over which the rate rises from 0 to optimizer.lr
    warmup_share: float | None = None  # share of all steps; instead of warmup_steps
    # [[P,B],...]: from sequence P of the data on, a step has B sequences, not data.batch_size
    batch: list[list[int]] = field(default_factory=list)
    batch_power: float = 0.5  # the rate grows with the batch to this power: 0.5 suits Adam, 1 SGD; 0: it does not

    def __post_init__(self) -> None:
        why, todo = f"is no list of [sequence, batch size] by sequence, from 1 up and below {MOST:,}", "try [[2000,16]]"
        require(orderly([*map(list, self.batch)]), "batch", self.batch, why, todo)
        power = self.batch_power
        require(0 <= power <= 1, "batch_power", power, "is not in [0, 1]", "0.5 suits Adam, 1 SGD")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "is negative", "0 turns it off")
        share = self.warmup_share
        require(share is None or 0 <= share < 1, "warmup_share", share, "is not in [0, 1)", "0.02 is usual")

    def warmup(self, steps: int) -> int:
        return self.warmup_steps if self.warmup_share is None else round(self.warmup_share * steps)

    def __call__(self, step: int, steps: int) -> float:
        warmup = self.warmup(steps)
        return (step + 1) / (warmup + 1) if step < warmup else self.after(step - warmup, max(1, steps - 1 - warmup))

    def after(self, step: int, last: int) -> float:
        """Return the multiplier at a step after the warm-up, counted from 0 to `last`."""
        return 1.0


@option("schedule", "cosine")
@dataclass
class Cosine(Constant):
    """A warm-up, then half a cosine from 1 down to `min_ratio` at the last step (Loshchilov & Hutter 2017)."""

    warmup_steps: int = 50
    min_ratio: float = 0.1  # rate at the end, as a share of optimizer.lr

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.min_ratio <= 1, "min_ratio", self.min_ratio, "is not in [0, 1]", "0.1 is usual")

    def after(self, step: int, last: int) -> float:
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * min(1.0, step / last))) / 2


@option("schedule", "linear")
@dataclass
class Linear(Cosine):
    """A warm-up, then a straight line from 1 down to `min_ratio` at the last step."""

    min_ratio: float = 0.0  # rate at the end, as a share of optimizer.lr

    def after(self, step: int, last: int) -> float:
        return 1 + (self.min_ratio - 1) * min(1.0, step / last)


@option("schedule", "wsd")
@dataclass
class WSD(Cosine):
    """A warm-up, a flat part, then decay to `min_ratio` over the last `decay_share` of the run (Hu et al. 2024)."""

    min_ratio: float = 0.0  # rate at the end, as a share of optimizer.lr
    decay_share: float = 0.2  # share of all steps, at the end, over which the rate falls
    shape: str = "linear"  # linear | sqrt: 1 - sqrt of the way (Haegele et al. 2024)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.decay_share <= 1, "decay_share", self.decay_share, "is not in (0, 1]", "0.2 is usual")
        require_choice("shape", self.shape, ("linear", "sqrt"))

    def __call__(self, step: int, steps: int) -> float:
        warmup, last = self.warmup(steps), steps - 1
        if step < warmup:
            return (step + 1) / (warmup + 1)
        decay = max(1.0, min(self.decay_share * last, last - warmup))  # in steps, after the warm-up
        way = min(1.0, max(0.0, 1 - (last - step) / decay))
        return 1 + (self.min_ratio - 1) * way ** (0.5 if self.shape == "sqrt" else 1)


@option("schedule", "inverse_sqrt")
@dataclass
class InverseSqrt(Constant):
    """A warm-up, then a rate proportional to one over the root of the step (Vaswani et al. 2017)."""

    warmup_steps: int = 50

    def __call__(self, step: int, steps: int) -> float:
        warmup = self.warmup(steps)
        return min((step + 1) / (warmup + 1), math.sqrt((warmup + 1) / (step + 1)))


def batch_sizes(first: int, schedule: Schedule) -> BatchSizes:
    """Return the sizes of all steps of a run that begins with batches of `first` sequences."""
    return BatchSizes(first, getattr(schedule, "batch", ()))


def rate(schedule: Schedule, sizes: BatchSizes, step: int, steps: int) -> float:
    """Return the multiplier of the learning rate at a step, counted from 0, of a run of `steps` steps.

    Where the batch grows the schedule goes by the data that were read, counted in batches of the first size: a larger
    batch goes faster through it, and ends with the same rate. On top of that the rate grows with a power of the batch;
    with a power of 0.5 Adam then takes the same way with fewer steps (Malladi et al. 2022).
    """
    if sizes.constant:
        return schedule(step, steps)
    at, last = (round(sizes.start(each) / sizes.first) for each in (step, steps - 1))
    power: float = getattr(schedule, "batch_power", 0.0)
    return float(schedule(at, last + 1) * (sizes.size(step) / sizes.first) ** power)


def steps_in_common(schedule: Schedule, sizes: BatchSizes, steps: int, more: int) -> int:
    """Return how many first steps a run of `steps` steps shares with one of `more`: those with the same rate in both.

    With a flat part, as in wsd, the shorter run can branch off the longer one there.
    """
    common = min(steps, more)
    rates = ((rate(schedule, sizes, i, steps), rate(schedule, sizes, i, more)) for i in range(common))
    return next((i for i, (own, other) in enumerate(rates) if own != other), common)
