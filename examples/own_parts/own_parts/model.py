"""A model: settings that build a torch module."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gptlab
from gptlab.errors import require

if TYPE_CHECKING:
    from torch import nn


@gptlab.option("model", "gru")
@dataclass
class GRUConfig:
    """A recurrent language model of one layer (Cho et al. 2014)."""

    width: int = 64
    block_size: int = 64
    vocab_size: int = 0  # as many as the tokenizer has
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.width >= 1, "width", self.width, "must be at least 1", "try 64")

    def build(self) -> "nn.Module":
        """Return the model, ids (B, T) in, logits (B, T, V) out."""
        from own_parts.gru import GRU

        return GRU(self.vocab_size, self.width, self.dropout)

    def flops_per_token(self) -> float:
        """Return the operations, forward and backward: 6 for each weight of a matrix product."""
        return 6 * (6 * self.width**2 + self.width * self.vocab_size)
