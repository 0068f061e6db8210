"""Compute the next-token loss of logits, all at once or a chunk of positions at a time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.data.batches.batch import IGNORE
from gptlab.model.gpt import recomputed

CHUNK = 1024  # positions whose logits are in memory at once


def cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of logits (B, T, V) against ids y (B, T), in nats.

    `reduction` is mean or sum over the targets, or none: (B T,), zero at IGNORE.
    """
    return F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction=reduction)


def chunked_cross_entropy(gpt: Any, hidden: Tensor, y: Tensor) -> Tensor:
    """Return the loss at each target of y (B, T) from the input of the head, (B, T, C), in nats, (B, T).

    The logits of more than CHUNK positions are never in memory: the backward pass computes them again.
    """
    pieces = zip(hidden.flatten(0, 1).split(CHUNK), y.flatten().split(CHUNK), strict=True)  # type: ignore[no-untyped-call]
    of_chunk = _ChunkLoss(gpt)  # no part of a module: swapping the weights must meet each of them once
    return torch.cat([recomputed(of_chunk, *piece) for piece in pieces]).view_as(y)


def target_losses(gpt: Any, x: Tensor, y: Tensor, chunked: bool, **more: Tensor) -> Tensor:
    """Return the loss of ids x (B, T) at each target of y (B, T), in nats, (B, T); `more` is for the model."""
    if chunked:
        return chunked_cross_entropy(gpt, gpt.hidden(x, **more), y)
    return cross_entropy(gpt(x, **more).float(), y, reduction="none").view_as(y)


class _ChunkLoss(nn.Module):
    """A module that computes the loss of hidden states (N, C) against targets (N,), in nats, (N,)."""

    def __init__(self, gpt: Any) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, hidden: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.gpt.logits(hidden)[None].float(), y[None], reduction="none")
