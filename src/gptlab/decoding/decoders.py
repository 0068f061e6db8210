"""Decoders: logits (B, V) in, the exact distribution of the next token (B, V) out (Jurafsky & Martin sec. 10.2).

Ties go to the smaller token id, and temperature 0 is greedy, everywhere.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gptlab.errors import require


class Decoder(Protocol):
    def __call__(self, logits: Tensor) -> Tensor: ...


@dataclass
class Greedy:
    """All mass on the most probable token."""

    def __call__(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits.float()).scatter_(-1, _ranked(logits)[..., :1], 1.0)


@dataclass
class Sample:
    """The model's own distribution, sharpened (temperature < 1) or flattened (> 1)."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "temperature", self.temperature, "is negative", "0 is greedy, 1 the model's own")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return Greedy()(logits)
        logits = logits.float()
        # shifted first: a tiny temperature must not overflow
        return ((logits - logits.amax(-1, keepdim=True)) / self.temperature).softmax(-1)


@dataclass
class TopK(Sample):
    """Only the k most probable tokens, exactly k of them, renormalized (Fan et al. 2018)."""

    k: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.k >= 1, "k", self.k, "keeps no token", "give 1 (greedy) or more, such as 50")

    def __call__(self, logits: Tensor) -> Tensor:
        ranked = _ranked(logits)
        return _keep(super().__call__(logits), ranked, torch.arange(ranked.shape[-1], device=ranked.device) < self.k)


@dataclass
class TopP(Sample):
    """The nucleus: the smallest set of most probable tokens whose mass reaches p (Holtzman et al. 2020)."""

    p: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.p <= 1, "p", self.p, "is not in (0, 1]", "0.9 is usual, 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs, ranked = super().__call__(logits), _ranked(logits)
        mass = probs.gather(-1, ranked).double().cumsum(-1)
        before = torch.cat([torch.zeros_like(mass[..., :1]), mass[..., :-1]], dim=-1)
        return _keep(probs, ranked, before < self.p)


def _ranked(logits: Tensor) -> Tensor:
    """Token ids (B, V), the most probable first, ties by id."""
    return logits.argsort(dim=-1, descending=True, stable=True)


def _keep(probs: Tensor, ranked: Tensor, kept: Tensor) -> Tensor:
    """The renormalized part of `probs` whose ranks are `kept` (V,) or (B, V)."""
    mask = torch.zeros_like(probs, dtype=torch.bool).scatter_(-1, ranked, kept.expand_as(ranked))
    probs = probs.masked_fill(~mask, 0.0)
    return probs / probs.sum(-1, keepdim=True)
