"""How long to train, in one of five units; the others follow."""

import dataclasses
from dataclasses import dataclass

from gptlab.errors import UserError, require

STEPS = 900  # if nobody says


@dataclass
class Budget:
    """How long to train: one of these."""

    steps: int | None = None  # optimizer steps
    tokens: float | None = None
    epochs: float | None = None  # of all training windows
    flops: float | None = None  # floating-point operations of training
    tokens_per_param: float | None = None  # 20 is Chinchilla's (Hoffmann et al. 2022)

    def __post_init__(self) -> None:
        for key, value in self.given().items():
            require(value > 0, key, value, "is not above 0", "try steps=900")
        names = list(self.given())
        if len(names) > 1:
            key, other = names[-1], names[0]
            raise UserError(key, getattr(self, key), f"and budget.{other} are given", f"add budget.{other}=null")

    def given(self) -> dict[str, float]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) is not None}

    def plan(self, tokens_per_step: int, tokens_per_epoch: int, parameters: int, flops_per_token: int) -> "Plan":
        """The nearest whole number of steps, at least one, and what it comes to in each unit."""
        per_step = {
            "steps": 1.0,
            "tokens": tokens_per_step,
            "epochs": tokens_per_step / tokens_per_epoch,
            "flops": tokens_per_step * flops_per_token,
            "tokens_per_param": tokens_per_step / parameters,
        }
        unit, amount = next(iter(self.given().items()), ("steps", STEPS))
        steps = max(1, round(amount / per_step[unit]))
        tokens = steps * tokens_per_step
        return Plan(steps, tokens, tokens / tokens_per_epoch, tokens * flops_per_token, tokens / parameters)


@dataclass(frozen=True)
class Plan:
    """A budget in all of its units."""

    steps: int
    tokens: int
    epochs: float
    flops: int
    tokens_per_param: float

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps, {self.tokens:,} tokens, {self.epochs:.3g} epochs, "
            f"{self.tokens_per_param:.3g} tokens per parameter, {self.flops:.2e} FLOPs"
        )
