"""Hold answers that a reference model has drawn, with what each of their tokens costs it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptlab.data.batches.batch import IGNORE


class AnswerBatch(NamedTuple):
    """Answers with their prompts; there are none in training."""

    x: Tensor  # (B, T) int64
    y: Tensor  # (B, T) int64; IGNORE where none counts
    nats: Tensor  # (B, T) float32, the cost of each target under the reference; 0 where none counts


class Answers:
    """Answers as held-out examples; there are none until they are drawn."""

    def __init__(self) -> None:
        self.drawn = AnswerBatch(torch.zeros(0, 1).long(), torch.zeros(0, 1).long(), torch.zeros(0, 1))

    def __len__(self) -> int:
        return len(self.drawn.x)

    def __getitems__(self, indices: Sequence[int]) -> AnswerBatch:
        """Return answers as a batch; one past the end has no target."""
        there = torch.tensor([i < len(self) for i in indices])[:, None]
        x, y, nats = (each[[min(i, len(self) - 1) for i in indices]] for each in self.drawn)
        return AnswerBatch(x, y.masked_fill(~there, IGNORE), nats.masked_fill(~there, 0.0))
