"""Define the batch of ids and targets, and what training needs of a batch of any task."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

IGNORE = -100  # a target that counts in no loss: padding, or a token that the loss mask leaves out


class Batch(NamedTuple):
    """Hold the ids of one micro-batch, their targets, and the size of its whole optimizer step.

    `step_targets` counts the targets (y != IGNORE) and `step_tokens` the ids that are read, without padding, of all
    micro-batches of the step on all ranks. They are known on the CPU when the batch is made, so that a loss can be
    divided by the first without waiting for a device. They are None for held-out batches.
    """

    x: Tensor  # (B, T) int64
    y: Tensor  # (B, T) int64; IGNORE where none counts
    step_targets: int | None = None
    step_tokens: int | None = None


def tensors(batch: Iterable[Any]) -> list[Tensor]:
    """Return the tensors of a batch, which is a NamedTuple of any task, in their order."""
    return [each for each in batch if isinstance(each, Tensor)]


def step_targets(batch: Any) -> int:
    """Return the number of targets of a batch's whole step, at least 1; raises TypeError if the batch has no number."""
    if batch.step_targets is None or batch.step_tokens is None:
        raise TypeError("batches of training must say how large their step is (Batch.step_targets, Batch.step_tokens)")
    return max(1, batch.step_targets)
