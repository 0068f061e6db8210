"""Read the texts that a model is writing, token by token with a cache as long as they fit into the context."""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gptlab.decoding.overflow import OVERFLOWS, Ring, require_sinks
from gptlab.errors import UserError, require, require_choice

Model = Any  # ids (B, T) in, logits (B, T, V) out; of what follows with a cache, where it has a new_cache()


@dataclass
class Limits:
    """The limits of a text: where it ends, and the treatment of texts that outgrow the context."""

    max_new_tokens: int
    block_size: int  # the number of last ids that the model sees
    ends: Collection[int] = ()  # each of them ends a text, and does not belong to it
    n_vocab: int | None = None  # ids of the tokenizer, if the model's vocabulary is padded
    overflow: str = "crop"  # crop: read the last ids again | ring: forget the oldest keys and values | refuse
    sinks: int = 0  # of a ring: the number of first ids that are never forgotten
    ring: Ring | None = field(init=False)  # whose keys and values are kept, where the oldest are forgotten one by one

    def __post_init__(self) -> None:
        require_choice("overflow", self.overflow, OVERFLOWS)
        require_sinks(self.sinks, self.overflow)
        self.ring = Ring(self.block_size, self.sinks) if self.overflow == "ring" else None


class Context:
    """Texts that grow by a token at a time, each token read once as long as they fit into the context.

    A model without `new_cache` reads the whole of each text for every token. A longer text is read again for every
    token, as far as it fits; with a ring its new token is all that is read.
    """

    def __init__(self, gpt: Model, limits: Limits) -> None:
        require_ring(gpt, limits.ring)
        self.gpt, self.limits = gpt, limits
        self.device = next(gpt.parameters()).device
        self.cache: Any = None

    def read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (B, V) of the token that follows each text."""
        block_size = self.limits.block_size
        if not hasattr(self.gpt, "new_cache"):
            return read_whole(self.gpt, [text[-block_size:] for text in texts])[:, : self.limits.n_vocab].float()
        longest, ring = max(map(len, texts)), self.limits.ring is not None
        if longest > block_size and not ring:  # every token changes its position, so all are read again
            logits, _ = read_padded(self.gpt, [text[-block_size:] for text in texts], block_size)
            self.cache = None
        elif self.cache is None or (self._full() and not ring) or self._outgrown(texts):
            logits = self._read_all(texts, min(block_size, longest + self.limits.max_new_tokens))
        else:
            last = torch.tensor([[text[-1]] for text in texts], device=self.device)
            logits = self.gpt(last, cache=self.cache)[:, -1]
        return logits[:, : self.limits.n_vocab].float()

    def _full(self) -> bool:
        """Tell whether the cache has no column left: that of a longer text, which has ended, counts too."""
        return bool(getattr(self.cache, "length", 0) == getattr(self.cache, "size", None))

    def _outgrown(self, texts: Sequence[Sequence[int]]) -> bool:
        """Tell whether a text is just longer than the model reads in the same way as shorter ones."""
        most = read_again_at(self.gpt, self.limits.block_size)
        return most is not None and any(len(text) == most for text in texts)

    def _read_all(self, texts: Sequence[Sequence[int]], size: int) -> Tensor:
        """Read texts of unequal length into a new cache, equal ones once."""
        each, numbers = distinct(texts)
        logits, self.cache = read_padded(self.gpt, each, size, self.limits.ring)
        if len(each) == len(texts):
            return logits
        rows = torch.tensor(numbers, device=self.device)
        self.cache.select(rows)
        return logits[rows]

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some of the rows, in this order."""
        if self.cache is not None and list(rows) != list(range(self.cache.batch)):
            self.cache.select(torch.tensor(rows, device=self.device))


def distinct(texts: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the texts without repeats, and for each text its place among those."""
    places: dict[tuple[int, ...], int] = {}
    numbers = [places.setdefault(tuple(text), len(places)) for text in texts]
    return list(places), numbers


def require_ring(gpt: Model, ring: Ring | None) -> None:
    """Refuse a model that cannot forget the oldest keys of a text but the sinks', where a ring is asked for."""
    if ring is None:
        return
    if getattr(gpt, "has_ring", False):
        has_sinks, why = getattr(gpt, "has_sinks", False), "the model's cache keeps the last tokens of a text only"
        require(ring.sinks == 0 or has_sinks, "sinks", ring.sinks, why, "leave them out")
        return
    learned = getattr(gpt.config, "positions", None) == "learned"
    why = f"learned positions end at block_size={ring.size}" if learned else "the model's cache keeps all of a text"
    todo = "choose crop, or a model with model.positions=rope or alibi"
    raise UserError("overflow", "ring", why, todo)


def read_again_at(gpt: Model, block_size: int) -> int | None:
    """Return the length at which all of a text is read again, as the model reads longer ones otherwise; None: never."""
    most = getattr(gpt, "reads_again_beyond", None)
    return None if most is None or most >= block_size else most + 1


def read_padded(gpt: Model, texts: Sequence[Sequence[int]], size: int, ring: Ring | None = None) -> tuple[Tensor, Any]:
    """Read texts of unequal length, padded on the left, into a new cache of `size` columns.

    With a `ring`, `size` is at most its own, and longer texts are read in parts of as many tokens.

    Returns the logits (B, V) of what follows each text, and the cache.
    """
    longest, device = max(map(len, texts)), next(gpt.parameters()).device
    gaps = [longest - len(text) for text in texts]
    idx = torch.tensor([[0] * gap + list(text) for gap, text in zip(gaps, texts, strict=True)], device=device)
    padding = torch.tensor(gaps, device=device) if any(gaps) else None
    alone = {"last": True} if "last" in inspect.signature(gpt.forward).parameters else {}
    if ring is None:
        cache = gpt.new_cache(len(texts), size, padding)
        return gpt(idx, cache=cache, **alone)[:, -1], cache
    cache = gpt.new_cache(len(texts), size, padding, **ring.options)
    cache.announced = longest
    *_, logits = (gpt(part, cache=cache, **alone)[:, -1] for part in torch.split(idx, ring.size, dim=1))
    return logits, cache


def read_whole(gpt: Model, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits (B, V) of what follows each text, read without a cache; those of one length together."""
    found: dict[int, Tensor] = {}
    device = next(gpt.parameters()).device
    for length in sorted(set(map(len, texts))):
        rows = [row for row, text in enumerate(texts) if len(text) == length]
        idx = torch.tensor([list(texts[row]) for row in rows], device=device)
        found |= dict(zip(rows, gpt(idx)[:, -1], strict=True))
    return torch.stack([found[row] for row in range(len(texts))])
