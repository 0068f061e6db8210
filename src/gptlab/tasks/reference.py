"""Compute what the model that a run begins with makes of the answers of pairs: once, before it is trained."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptlab.data.batches.batch import tensors
from gptlab.tasks.base import Figures


@torch.no_grad()
def reference_log_probs(
    figures: Callable[..., Figures], pairs: Any, batches: Iterable[Sequence[int]], device: torch.device
) -> Tensor:
    """Return the log-probabilities of both answers of pairs, (N, 2) on the CPU, of those pairs that `batches` name.

    `figures` are those of the task by the reference; the others are zero, so that ranks can add theirs.
    """
    found = torch.zeros(len(pairs), 2)
    for numbers in batches:
        batch = pairs.__getitems__(numbers)
        own = [number for number in numbers if number < len(pairs)]
        log_probs = figures(*(each.to(device) for each in tensors(batch)))["log_probs"]
        found[own] = log_probs[: len(own)].float().cpu()
    return found
