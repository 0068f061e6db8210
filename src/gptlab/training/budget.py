"""Define how long to train, in one of six units, and compute the others."""

import dataclasses
import math
from dataclasses import dataclass

from gptlab.batch_sizes import BatchSizes
from gptlab.errors import UserError, require
from gptlab.runs.config_file import STEPS, fixed_budget, given_budget


@dataclass
class Budget:
    """The length of a training run, given in one of these units."""

    steps: int | None = None  # optimizer steps; 900 where no unit is given
    tokens: float | None = None  # tokens of training, repeated ones counted each time
    epochs: float | None = None  # passes over all training windows
    flops: float | None = None  # floating-point operations of training
    tokens_per_param: float | None = None  # tokens for each parameter; 20 is Chinchilla's (Hoffmann et al. 2022)
    minutes: float | None = None  # minutes of training steps on this machine
    seconds_per_step: float | None = None  # converts minutes to steps; null: timed before the first step

    def __post_init__(self) -> None:
        units = given_budget(dataclasses.asdict(self))
        pace = {} if self.seconds_per_step is None else {"seconds_per_step": self.seconds_per_step}
        for key, value in {**units, **pace}.items():
            require(value > 0, key, value, "is not above 0", "try steps=900")
            require(math.isfinite(value), key, value, "never ends", "try steps=900")
        names = list(units)
        if len(names) > 1:
            key, other = names[-1], names[0]
            raise UserError(key, getattr(self, key), f"and budget.{other} are given", f"add budget.{other}=null")

    def given(self) -> "Budget":
        """Return the budget with the unit and the amount that it has where none is given."""
        return self if given_budget(dataclasses.asdict(self)) else dataclasses.replace(self, steps=STEPS)

    def fixed(self) -> dict[str, float]:
        """Return the unit that is held fixed, and its amount."""
        return fixed_budget(dataclasses.asdict(self))

    def plan(
        self,
        tokens_per_step: float,
        tokens_per_epoch: int | None,
        parameters: int,
        flops_per_token: int,
        sizes: BatchSizes | None = None,
    ) -> "Plan | None":
        """Return the nearest whole number of steps, at least one, and its equivalent in each unit.

        Returns None if that is not known before a step is timed. Where the batch grows by `sizes`, tokens and seconds
        are those of a step of the first size, and a larger one has as many more as it has sequences.
        """
        per_step = {
            "steps": 1.0,
            "tokens": tokens_per_step,
            "epochs": tokens_per_step / tokens_per_epoch if tokens_per_epoch else None,
            "flops": tokens_per_step * flops_per_token,
            "tokens_per_param": tokens_per_step / parameters,
            "minutes": self.seconds_per_step and self.seconds_per_step / 60,
        }
        ((unit, amount),) = self.fixed().items()
        one = per_step[unit]
        endless = unit == "epochs" and one is None
        require(
            not endless,
            "budget.epochs",
            f"{amount:g}",
            "the length of an epoch of these data is not known",
            "give steps",
        )
        if one is None:
            return None
        sizes = sizes or BatchSizes(1)
        steps = max(1, round(amount)) if unit == "steps" else sizes.steps(amount / one * sizes.first)
        tokens = round(sizes.start(steps) / sizes.first * tokens_per_step)
        fixed = f"{unit}={amount:g}" + (f" of {one * 60_000:.3g} ms a step" if unit == "minutes" else "")
        epochs = tokens / tokens_per_epoch if tokens_per_epoch else None
        return Plan(steps, tokens, epochs, tokens * flops_per_token, tokens / parameters, fixed)


@dataclass(frozen=True)
class Plan:
    """A budget in all of its units, of which one is `fixed`."""

    steps: int
    tokens: int
    epochs: float | None  # None if the length of an epoch is not known
    flops: int
    tokens_per_param: float
    fixed: str

    def __str__(self) -> str:
        epochs = "" if self.epochs is None else f"{self.epochs:.3g} epochs, "
        return (
            f"{self.steps:,} steps, {self.tokens:,} tokens, {epochs}"
            f"{self.tokens_per_param:.3g} tokens per parameter, {self.flops:.2e} FLOPs; fixed: {self.fixed}"
        )
