"""A decoder: logits in, the distribution of the next token out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gptlab
from gptlab.decoding.decoders import Sample
from gptlab.errors import require

if TYPE_CHECKING:
    from torch import Tensor


@gptlab.option("decoder", "sharper")
@dataclass
class Sharper(Sample):
    """Raise the model's probabilities to a power and renormalize."""

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.power > 0, "power", self.power, "is not above 0", "1 is the model's own distribution")

    def __call__(self, logits: "Tensor") -> "Tensor":
        """Return probabilities (B, V) of logits (B, V)."""
        return super().__call__(logits.float() * self.power)
