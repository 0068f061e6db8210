"""Learning-rate schedules: each a dataclass called as (step, steps) -> multiplier of the learning rate."""

import math
from dataclasses import dataclass

from gptlab.errors import require


@dataclass
class Constant:
    """The full rate after a linear warm-up."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "is negative", "0 turns it off")

    def __call__(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@dataclass
class Cosine(Constant):
    """Warm-up, then half a cosine from 1 down to `min_ratio` at the last step (Loshchilov & Hutter 2017)."""

    warmup_steps: int = 50
    min_ratio: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.min_ratio <= 1, "min_ratio", self.min_ratio, "is not in [0, 1]", "0.1 is usual")

    def __call__(self, step: int, steps: int) -> float:
        if step < self.warmup_steps:
            return super().__call__(step, steps)
        progress = min(1.0, (step - self.warmup_steps) / max(1, steps - 1 - self.warmup_steps))
        return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * progress)) / 2
