"""Define the decoders: logits (B, V) in, the exact distribution of the next token (B, V) out.

Jurafsky & Martin sec. 10.2. Ties go to the smaller token id, and temperature 0 is greedy, everywhere. Logits of -inf
are tokens that cannot come. Only methods of tensors are used, so that reading a config with a decoder in it does not
import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gptlab.errors import require
from gptlab.registry import option

if TYPE_CHECKING:
    from torch import Tensor

FIRST = 1024  # most probable tokens to search for the nucleus first


class Decoder(Protocol):
    """A function from logits (B, V) to the probabilities (B, V) of the next token."""

    def __call__(self, logits: Tensor) -> Tensor: ...


@option("decoder", "greedy")
@dataclass
class Greedy:
    """Always the most probable token."""

    def __call__(self, logits: Tensor) -> Tensor:
        check(logits)
        best = logits.argmax(-1, keepdim=True)  # the first of equals
        return logits.new_zeros(logits.shape).float().scatter_(-1, best, 1.0)


@option("decoder", "sample")
@dataclass
class Sample:
    """The model's own distribution, sharpened (temperature < 1) or flattened (> 1)."""

    temperature: float = 1.0  # divides the logits: below 1 bolder, above 1 more varied

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


@option("decoder", "top_k")
@dataclass
class TopK(Sample):
    """The k most probable tokens, exactly k of them, renormalized (Fan et al. 2018)."""

    k: int = 50  # only the k most probable tokens are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.k >= 1, "k", self.k, "keeps no token", "give 1 (greedy) or more, such as 50")

    def __call__(self, logits: Tensor) -> Tensor:
        probs, k = super().__call__(logits), min(self.k, logits.shape[-1])
        return _keep_first(probs, logits, logits.topk(k).values[..., -1:], k)


@option("decoder", "top_p")
@dataclass
class TopP(Sample):
    """The nucleus: the smallest set of most probable tokens whose mass reaches p (Holtzman et al. 2020)."""

    p: float = 0.9  # only the most probable tokens that together have this probability are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.p <= 1, "p", self.p, "is not in (0, 1]", "0.9 is usual, 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs, n_vocab = super().__call__(logits), logits.shape[-1]
        if self.p == 1:
            return probs  # rounding must not let the sum reach 1 before the last token
        for n in (min(n_vocab, FIRST), n_vocab):
            best = logits.topk(n)
            mass = probs.gather(-1, best.indices).double().cumsum(-1)
            if n == n_vocab or bool((mass[..., -1] >= self.p).all()):
                break
        size = (mass < self.p).sum(-1, keepdim=True).clamp(max=n - 1) + 1
        return _keep_first(probs, logits, best.values.gather(-1, size - 1), size)


@option("decoder", "min_p")
@dataclass
class MinP(Sample):
    """Tokens at least `min_p` times as probable as the most probable one (Nguyen et al. 2024)."""

    min_p: float = 0.05  # only tokens at least this share as probable as the most probable one are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "is not in [0, 1]", "0.05 is usual, 0 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs = super().__call__(logits)
        return _renormalized(probs, probs >= self.min_p * probs.amax(-1, keepdim=True))


@option("decoder", "typical")
@dataclass
class Typical(Sample):
    """Tokens whose surprise is close to the expected one: locally typical sampling (Meister et al. 2023).

    These are the smallest set of tokens whose surprise is nearest to the entropy, and whose mass reaches `mass`.
    """

    mass: float = 0.95  # only the most typical tokens that together have this probability are drawn

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.mass <= 1, "mass", self.mass, "is not in (0, 1]", "0.95 is usual, 1 keeps every token")

    def __call__(self, logits: Tensor) -> Tensor:
        probs = super().__call__(logits)
        if self.mass == 1:
            return probs
        surprise = -probs.double().log()  # inf where a token cannot come
        entropy = (probs * surprise).nan_to_num(0.0).sum(-1, keepdim=True)
        nearest = (surprise - entropy).abs().argsort(dim=-1, stable=True)
        mass = probs.gather(-1, nearest).double().cumsum(-1)
        before = mass.roll(1, -1)
        before[..., 0] = 0.0
        mask = probs.new_zeros(probs.shape).bool().scatter_(-1, nearest, before < self.mass)
        return _renormalized(probs, mask)


@option("decoder", "beam")
@dataclass
class Beam:
    """Beam search: the most probable text found, not a random draw.

    Of all continuations tried it is the one with the highest log-probability over length ** length_penalty (Wu et al.
    2016 penalize in a similar way). A search, not a distribution: `beam_search` carries it out.
    """

    beams: int = 4  # texts that are kept at each step
    length_penalty: float = 1.0  # a score is divided by the length to this power: above 1 favours long texts

    def __post_init__(self) -> None:
        require(self.beams >= 1, "beams", self.beams, "must be at least 1", "4 is usual, 1 is greedy")


@dataclass
class Chain:
    """Several decoders, one after another: each sees only the tokens that those before it keep."""

    decoders: list[Decoder]

    def __call__(self, logits: Tensor) -> Tensor:
        for decoder in self.decoders[:-1]:
            logits = logits.masked_fill(decoder(logits) == 0, float("-inf"))
        return self.decoders[-1](logits)


def check(logits: Tensor) -> None:
    """Refuse logits that are not a distribution: NaN, +inf, or a row of -inf alone."""
    finite = bool(logits.amax(-1).isfinite().all())  # amax propagates NaN
    require(finite, "logits", "NaN, inf or all -inf", "are no distribution", "the range is [-inf, inf), one above -inf")


def _keep_first(probs: Tensor, logits: Tensor, last: Tensor, size: Tensor | int) -> Tensor:
    """Keep the `size` (B, 1) most probable tokens, ties by id, and renormalize.

    `last` (B, 1) is the smallest logit among them. Only the tokens that tie with the last one have to be told apart,
    if there are several, so nothing is sorted.
    """
    kept = logits >= last
    if bool((kept.sum(-1, keepdim=True) > size).any()):
        above, tied = logits > last, logits == last
        kept = above | (tied & (tied.cumsum(-1) <= size - above.sum(-1, keepdim=True)))
    return _renormalized(probs, kept)


def _renormalized(probs: Tensor, kept: Tensor) -> Tensor:
    probs = probs.masked_fill(~kept, 0.0)
    return probs / probs.sum(-1, keepdim=True)
