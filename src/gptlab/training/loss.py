"""What training minimizes: the function that is differentiated, compiled, and computed in low precision."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gptlab.metrics import nats
from gptlab.model.gpt import GPT, read_by_document, recomputed

CHUNK = 1024  # positions whose logits are in memory at once


class Loss(nn.Module):
    """Next-token loss of ids x, y (B, T) at each target, (B, T), in nats; 0 where there is none.

    With a `dtype` the model computes in it, by copies of its weights that are rounded anew for every pass; the weights
    themselves, their gradients and the optimizer's state stay in fp32 (master weights: Micikevicius et al. 2018). A
    `chunked` loss never holds the logits of more than CHUNK positions: the backward pass computes them again.
    """

    _loss: "_Loss"

    def __init__(
        self, gpt: GPT, separator: int | None = None, dtype: torch.dtype | None = None, chunked: bool = False
    ) -> None:
        super().__init__()
        # the model is no part of this module: a checkpoint names each weight once
        object.__setattr__(self, "_loss", _Loss(gpt, separator, chunked))
        self.dtype = dtype

    @property
    def gpt(self) -> GPT:
        return self._loss.gpt

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.dtype is None:
            return self._loss(x, y)
        rounded = {name: p.to(self.dtype) for name, p in self._loss.named_parameters()}
        return functional_call(self._loss, rounded, (x, y))


class _Loss(nn.Module):
    """The same with the weights as they are."""

    def __init__(self, gpt: GPT, separator: int | None, chunked: bool) -> None:
        super().__init__()
        self.gpt, self.separator, self.chunked = gpt, separator, chunked

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.chunked:
            return nats(read_by_document(self.gpt, x, self.separator).float(), y, reduction="none").view_as(y)
        hidden = read_by_document(self.gpt.hidden, x, self.separator)
        pieces = zip(hidden.flatten(0, 1).split(CHUNK), y.flatten().split(CHUNK), strict=True)  # type: ignore[no-untyped-call]
        of_chunk = _OfChunk(self.gpt)  # no part of this module: swapping its weights must meet each of them once
        return torch.cat([recomputed(of_chunk, *piece) for piece in pieces]).view_as(y)


class _OfChunk(nn.Module):
    """Of hidden (N, C) and targets (N,)."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, hidden: Tensor, y: Tensor) -> Tensor:
        return nats(self.gpt.logits(hidden)[None].float(), y[None], reduction="none")
