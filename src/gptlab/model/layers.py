"""Define norms and feed-forwards, the parts of a Transformer block that look at one position alone."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(kind: str, width: int, eps: float, bias: bool) -> nn.Module:
    """Return a norm: `layer` (Ba et al. 2016) or `rms` (Zhang & Sennrich 2019), which has no bias."""
    return nn.LayerNorm(width, eps=eps, bias=bias) if kind == "layer" else nn.RMSNorm(width, eps=eps)


def gelu(x: Tensor) -> Tensor:
    """Apply GELU approximated by a tanh (Hendrycks & Gimpel 2016), elementwise.

    (1 + tanh z) / 2 is sigmoid(2z): compiled for a CPU that takes 40% of the time of a tanh; uncompiled, PyTorch's one
    kernel is faster.
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    return x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))


class MLP(nn.Module):
    """A feed-forward layer: widen to `n_inner`, a nonlinearity, narrow; (B, T, C) -> (B, T, C).

    `gelu` is GPT-2's (tanh-approximated), `relu2` a squared ReLU (So et al. 2021), `swiglu` Llama's (Shazeer 2020).
    """

    def __init__(self, kind: str, n_embd: int, n_inner: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.kind = kind
        self.fc = nn.Linear(n_embd, n_inner, bias=bias)
        if kind == "swiglu":
            self.gate = nn.Linear(n_embd, n_inner, bias=bias)
        self.proj = nn.Linear(n_inner, n_embd, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "gelu":
                h = gelu(self.fc(x))
            case "relu2":
                h = F.relu(self.fc(x)).square()
            case _:
                h = F.silu(self.gate(x)) * self.fc(x)
        return self.dropout(self.proj(h))
