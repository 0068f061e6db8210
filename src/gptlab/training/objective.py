"""What training minimizes: the function that is differentiated, compiled, and computed in low precision."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gptlab.metrics import nats
from gptlab.model.gpt import GPT, read_by_document


class Objective(nn.Module):
    """Next-token loss of ids x, y (B, T), summed over all targets, in nats.

    With a `dtype` the model computes in it, by copies of its weights that are rounded anew for every pass; the weights
    themselves, their gradients and the optimizer's state stay in fp32 (master weights: Micikevicius et al. 2018).
    """

    gpt: GPT

    def __init__(self, gpt: GPT, separator: int | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "gpt", gpt)  # not a part of this module: a checkpoint names each weight once
        self.separator, self.dtype = separator, dtype

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return nats(self.logits(x).float(), y, reduction="sum")

    def logits(self, x: Tensor) -> Tensor:
        """(B, T, V)."""
        if self.dtype is None:
            return read_by_document(self.gpt, x, self.separator)
        rounded = {name: p.to(self.dtype) for name, p in self.gpt.named_parameters()}
        return read_by_document(lambda *ids: functional_call(self.gpt, rounded, ids), x, self.separator)
