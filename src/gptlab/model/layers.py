"""Define norms and feed-forwards, the parts of a Transformer block that look at one position alone."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(kind: str, width: int, eps: float, bias: bool) -> nn.Module:
    """Return a norm: `layer` (Ba et al. 2016) or `rms` (Zhang & Sennrich 2019), which has no bias.

    `plain_layer` has no weights, and those of `zero_centered_rms` count from 0.
    """
    match kind:
        case "layer":
            return nn.LayerNorm(width, eps=eps, bias=bias)
        case "plain_layer":
            return nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        case "zero_centered_rms":
            return ZeroCenteredRMSNorm(width, eps)
        case _:
            return nn.RMSNorm(width, eps=eps)


class ZeroCenteredRMSNorm(nn.Module):
    """An RMSNorm that multiplies by 1 + weight, so that weight decay draws it to 1 (Gemma Team 2024)."""

    def __init__(self, width: int, eps: float | None) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.eps).type_as(x)


def gelu(x: Tensor) -> Tensor:
    """Apply GELU approximated by a tanh (Hendrycks & Gimpel 2016), elementwise.

    (1 + tanh z) / 2 is sigmoid(2z): compiled for a CPU that takes 40% of the time of a tanh; uncompiled, PyTorch's one
    kernel is faster.
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


Activation = Callable[[Tensor], Tensor]
GATED: dict[str, Activation] = {"swiglu": F.silu, "geglu": gelu}
UNGATED: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_exact": F.gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}


class MLP(nn.Module):
    """A feed-forward layer: widen to `n_inner`, a nonlinearity, narrow; (B, T, C) -> (B, T, C).

    `gelu` is GPT-2's (tanh-approximated), `relu2` a squared ReLU (So et al. 2021), `swiglu` Llama's and `geglu` Gemma's
    (Shazeer 2020).
    """

    def __init__(self, kind: str, n_embd: int, n_inner: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.kind = kind
        self.fc = nn.Linear(n_embd, n_inner, bias=bias)
        if kind in GATED:
            self.gate = nn.Linear(n_embd, n_inner, bias=bias)
        self.proj = nn.Linear(n_inner, n_embd, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = GATED[self.kind](self.gate(x)) * self.fc(x) if self.kind in GATED else UNGATED[self.kind](self.fc(x))
        return self.dropout(self.proj(h))
