"""The field's three ways to say how well a model predicts a text (Jurafsky & Martin ch. 10; Raschka sec. 5.1)."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


def nats(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits (B, T, V) against ids y (B, T) in nats: mean, sum, or none (B T,); targets of -100 do not
    count."""
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100, reduction=reduction)


@dataclass(frozen=True)
class Score:
    """What a text cost a model: `nats` in all, over `tokens` predicted tokens that spell `bytes` bytes of UTF-8."""

    nats: float
    tokens: int
    bytes: float

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to guess among."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode one byte of the text: comparable over tokenizers, unlike the two above."""
        return self.nats / math.log(2) / self.bytes
