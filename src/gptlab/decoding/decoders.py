"""Decoders: logits (B, V) in, the exact distribution of the next token (B, V) out (Jurafsky & Martin sec. 10.2).

Ties go to the smaller token id, and temperature 0 is greedy, everywhere. Logits of -inf are tokens that cannot come.
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
        check(logits)
        # the first of equals, which argmax does not promise
        best = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)


@dataclass
class Sample:
    """The model's own distribution, sharpened (temperature < 1) or flattened (> 1)."""

    temperature: float = 1.0

    def __post_init__(self) -> None:
        known = 0 <= self.temperature < float("inf")
        require(known, "temperature", self.temperature, "is not in [0, inf)", "0 is greedy, 1 the model's own")

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return Greedy()(logits)
        check(logits)
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
        probs, ranked = super().__call__(logits), _ranked(logits)
        return _keep(probs, ranked, torch.arange(ranked.shape[-1], device=ranked.device) < self.k)


@dataclass
class TopP(Sample):
    """The nucleus: the smallest set of most probable tokens whose mass reaches p (Holtzman et al. 2020)."""

    p: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.p <= 1, "p", self.p, "is not in (0, 1]", "0.9 is usual, 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs, ranked = super().__call__(logits), _ranked(logits)
        return _keep(probs, ranked, _mass_before(probs, ranked) < self.p)


@dataclass
class MinP(Sample):
    """Tokens at least `min_p` times as probable as the most probable one (Nguyen et al. 2024)."""

    min_p: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "is not in [0, 1]", "0.05 is usual, 0 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs = super().__call__(logits)
        probs = probs.masked_fill(probs < self.min_p * probs.amax(-1, keepdim=True), 0.0)
        return probs / probs.sum(-1, keepdim=True)


@dataclass
class Typical(Sample):
    """Locally typical sampling (Meister et al. 2023): the smallest set of tokens whose surprise is nearest to the
    entropy, and whose mass reaches `mass`."""

    mass: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.mass <= 1, "mass", self.mass, "is not in (0, 1]", "0.95 is usual, 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs = super().__call__(logits)
        surprise = -probs.double().log()  # inf where a token cannot come
        entropy = (probs * surprise).nan_to_num(0.0).sum(-1, keepdim=True)
        nearest = (surprise - entropy).abs().argsort(dim=-1, stable=True)
        return _keep(probs, nearest, _mass_before(probs, nearest) < self.mass)


@dataclass
class Beam:
    """Beam search: of all continuations tried, the one with the highest log-probability over length ** length_penalty
    (Wu et al. 2016 penalize likewise). A search, not a distribution: `beam_search` carries it out."""

    beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        require(self.beams >= 1, "beams", self.beams, "must be at least 1", "4 is usual, 1 is greedy")


def check(logits: Tensor) -> None:
    """Refuse logits that are no distribution."""
    finite = bool((logits.amax(-1) < torch.inf).all() and (logits.amax(-1) > -torch.inf).all())  # NaN is neither
    require(finite, "logits", "NaN, inf or all -inf", "are no distribution", "the range is [-inf, inf), one above -inf")


def _ranked(logits: Tensor) -> Tensor:
    """Token ids (B, V), the most probable first, ties by id."""
    return logits.argsort(dim=-1, descending=True, stable=True)


def _mass_before(probs: Tensor, order: Tensor) -> Tensor:
    """The mass of the tokens before each one in an order (B, V)."""
    mass = probs.gather(-1, order).double().cumsum(-1)
    return torch.cat([torch.zeros_like(mass[..., :1]), mass[..., :-1]], dim=-1)


def _keep(probs: Tensor, order: Tensor, kept: Tensor) -> Tensor:
    """The renormalized part of `probs` whose places in `order` are `kept` (V,) or (B, V)."""
    mask = torch.zeros_like(probs, dtype=torch.bool).scatter_(-1, order, kept.expand_as(order))
    probs = probs.masked_fill(~mask, 0.0)
    return probs / probs.sum(-1, keepdim=True)
