"""Keep the keys and values of the last tokens only, each in the place of one that is forgotten: a ring."""

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model.attention import CacheShape, KVCache
from gptlab.model.positions import Rotation, distances, rotate
from gptlab.model.slots import SlotCache

Columns = TypeVar("Columns", int, Tensor)


class RingCache(KVCache):
    """A KV cache of the last `ring` tokens, as the rolling buffer of Mistral 7B (Jiang et al. 2023).

    With `sinks` it is one of the first `sinks` tokens of each text, which stay, and of the last `ring - sinks`
    (attention sinks: Xiao et al. 2024, sec. 3.2). Distances are counted within the cache: from the moment that it is
    full, those of the sinks no longer grow.

    Columns are counted on. The first `sinks` places are those of the first tokens of each row, and the others a ring:
    column c is kept in place sinks + (c - sinks) % (ring - sinks). Without sinks a text of any length gets the logits
    of one pass over it with this band as a mask. `size` may be less than `ring` for texts that do not become longer.
    """

    announced = 0  # columns of texts that are read in several parts

    def __init__(
        self, shape: CacheShape, batch: int, size: int, padding: Tensor | None, ring: int, sinks: int = 0
    ) -> None:
        super().__init__(shape, batch, min(max(size, sinks), ring), padding)
        self._gap = 0 if padding is None else int(padding.max())
        self._set_ring(shape, ring, sinks)

    def _set_ring(self, shape: CacheShape, ring: int, sinks: int) -> None:
        self.ring, self.sinks, self.recent = ring, sinks, ring - sinks
        # rotary keys of the sinks as they were read; those in `keys` turn as a text grows, each time from these
        self.sink_keys = shape.buffers(self.batch, sinks) if sinks else []
        self.shifts: Sequence[Rotation | None] = [None] * shape.n_layer  # that turn, in each layer; set by the model

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, T, D) of a layer; return those that are `distances(T)` away.

        Where sinks have a shift that differs from query to query, keys are (B, H, S, 2D): see `queries`.
        """
        keys, values = self.keys[layer], self.values[layer]
        if not self.sinks:
            return self._extended(keys, k), self._extended(values, v)
        B, T, sinks = self.batch, k.shape[2], self.sink_keys[layer]
        if T > 1:
            keys[:B, :, : self.sinks] = sinks[:B]
        found, read = self._extended(keys, k), self._extended(values, v)
        if self._reads_sinks():
            for kept, new in ((keys, k), (values, v), (sinks, k)):
                self._keep_sinks(kept, new)
        shift = self.shifts[layer]
        if shift is not None and T == 1:
            keys[:B, :, : self.sinks] = rotate(sinks[:B], shift)
        elif shift is not None:
            of_sinks = (self._key_positions(T)[0] < self.sinks).view(-1, 1, found.shape[2], 1)
            found = torch.cat([found.masked_fill(of_sinks, 0), found.masked_fill(~of_sinks, 0)], dim=-1)
        return found, read

    def queries(self, layer: int, q: Tensor) -> Tensor:
        """Return the queries (B, H, T, D) of a layer as its keys in the cache need them.

        The sinks of a single token are turned. Of several tokens each is another distance away from them, and queries
        are turned back instead: (B, H, T, 2D) are for keys that are not sinks, and for those that are.
        """
        shift = self.shifts[layer]
        if shift is None or q.shape[2] == 1:
            return q
        cos, sin = shift
        return torch.cat([q, rotate(q, (cos, -sin))], dim=-1)

    def _extended(self, kept: Tensor, new: Tensor) -> Tensor:
        B, T, new = self.batch, new.shape[2], new.to(kept.dtype)
        both = new
        if T > 1 and self.length:  # what is kept is seen by the first of the new tokens, and overwritten by the last
            both = torch.cat([kept[:B, :, : self._filled(self.length)], new], dim=2)
        self._write(kept, new)
        return both if T > 1 else kept[:B, :, : self._filled(self.length + 1)]

    def _write(self, kept: Tensor, new: Tensor) -> None:
        T, last = new.shape[2], slice(-self.recent, None)
        if T == 1:  # without an index on the device
            place = self._places(self.length)
            kept[:, :, place : place + 1] = new
        else:
            kept[:, :, self._places(self.columns(T)[last])] = new[:, :, last]

    def _places(self, columns: Columns) -> Columns:
        """Return the places of columns."""
        return columns - (columns >= self.sinks) * ((columns - self.sinks) // self.recent) * self.recent

    def _filled(self, columns: int) -> int:
        """Return how many places are filled after so many columns."""
        return min(columns, self.ring)

    def _reads_sinks(self) -> bool:
        """Tell whether some of the next tokens may be among the first ones of their texts."""
        return self.length < self._gap + self.sinks

    def _keep_sinks(self, kept: Tensor, new: Tensor) -> None:
        """Put the first tokens of each text, as far as they are among the new ones (B, H, T, D), into their places."""
        B, H, T, D = new.shape
        at = torch.arange(self.sinks, device=new.device) - self._text_positions(1)  # (sinks,) or (B, sinks)
        is_new = ((at >= 0) & (at < T)).expand(B, -1)[:, None, :, None]
        at = at.clamp(0, T - 1).expand(B, -1)[:, None, :, None].expand(B, H, -1, D)
        place = kept[:B, :, : self.sinks]
        kept[:B, :, : self.sinks] = torch.where(is_new, new.gather(2, at).to(kept.dtype), place)

    def _text_positions(self, T: int) -> Tensor:
        """Return the positions of the next T tokens in their texts, (T,) or (B, T); those of padding are negative."""
        columns = self.columns(T)
        return columns if self.padding is None else columns - self.padding[:, None]

    def _key_positions(self, T: int) -> tuple[Tensor, Tensor]:
        """Return the positions in the text of the keys that the next T tokens look at, (S,) or (B, S).

        The second tensor is true for places that are empty, or are padding, or have a sink for a second time.
        """
        new, at = self.columns(T), self._text_positions(T)
        last = new[..., :1] if T == 1 else new[..., :1] - 1  # a single token is in its place before it looks
        places = torch.arange(self._filled(self.length + (T == 1)), device=new.device)
        kept = last - (last - places) % self.recent
        kept = kept if self.padding is None else kept - self.padding[:, None]
        empty = kept < self.sinks
        if self.sinks:
            of_sinks, read = places < self.sinks, at[..., :1] if T == 1 else at[..., :1] - 1
            kept, empty = torch.where(of_sinks, places, kept), torch.where(of_sinks, places > read, empty)
        return (kept, empty) if T == 1 else (torch.cat([kept, at], dim=-1), torch.cat([empty, at < 0], dim=-1))

    def moved(self, T: int) -> Tensor | None:
        """Return by how many positions the sinks follow each of the next T tokens, (T,) or (B, T); None for none."""
        if not self.sinks or self.length + T <= self.ring:
            return None
        return (self._text_positions(T) - (self.ring - 1)).clamp(min=0)

    def distances(self, T: int) -> Tensor:
        """Return how far the next T tokens are behind each key that they look at, (T, S) or (B, T, S)."""
        at, (keys, _), moved = self._text_positions(T), self._key_positions(T), self.moved(T)
        far = distances(at, keys)
        if moved is not None:
            far = far - moved[..., :, None] * (keys < self.sinks)[..., None, :]
        if self.padding is None:
            return far
        alike = T == 1 and self._sees_all()  # a bias that rows share is a faster one
        return far[0] if alike else far.masked_fill((at < 0)[..., None], 0)

    def text_lengths(self, T: int) -> Tensor:
        """Return how many tokens of each text are in view at the end of what is read, (1,) or (B, 1)."""
        rest = max(0, self.announced - self.length - T)
        ends = self.columns(T)[..., -1:] + 1 + rest
        return (ends if self.padding is None else ends - self.padding[:, None]).clamp(max=self.ring)

    def mask(self, T: int) -> Tensor | None:
        """Return the bias on the scores of the next T tokens, (B or 1, 1, T, S); None for causal attention."""
        if self._sees_all() if T == 1 else self.length == 0 and T <= self.ring and self.padding is None:
            return None
        at, (keys, empty) = self._text_positions(T), self._key_positions(T)
        far = distances(at, keys)  # (T, S) or (B, T, S)
        beyond = (far >= self.recent) & (keys >= self.sinks)[..., None, :]
        hidden = ((far < 0) | beyond | empty[..., None, :]) & (at >= 0)[..., None]  # padding sees all: no row is empty
        return torch.zeros(hidden.shape, device=at.device).masked_fill(hidden, -torch.inf).unsqueeze(-3)

    def select(self, rows: Tensor) -> None:
        """Make row i the continuation of row `rows[i]`; the number of rows may change."""
        super().select(rows)
        self.sink_keys = [keys[rows] for keys in self.sink_keys]

    def _sees_all(self) -> bool:
        """Return whether the next token of every row attends to all that is kept."""
        return max(self.sinks, self.length + 1 - self.recent) >= self._gap + self.sinks


class RingSlots(RingCache, SlotCache):
    """A ring for each of the texts that come and go; those that join have at most `ring` tokens."""

    def __init__(self, shape: CacheShape, ring: int, sinks: int = 0) -> None:
        SlotCache.__init__(self, shape)
        self._set_ring(shape, ring, sinks)

    def put(self, cache: KVCache, rows: Sequence[int], at: Sequence[int] | None = None) -> None:
        """Copy rows of another cache behind the last one, or in the place of the rows `at`."""
        places = list(range(self.batch, self.batch + len(rows)) if at is None else at)
        super().put(cache, rows, at)
        for sinks, keys in zip(self.sink_keys, self.keys, strict=False):  # none without sinks
            sinks[places] = keys[places, :, : self.sinks]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, T, D) of a layer; return those that are `distances(T)` away."""
        self._reserve(self.batch, self._filled(self.length + k.shape[2]))
        return super().extend(layer, k, v)

    def _write(self, kept: Tensor, new: Tensor) -> None:
        rows, last = torch.arange(len(new), device=new.device)[:, None], slice(-self.recent, None)
        kept[rows, :, self._places(self.columns(new.shape[2])[:, last])] = new[:, :, last].transpose(1, 2)

    def _reads_sinks(self) -> bool:
        return min(self.lengths) < self.sinks

    def _sees_all(self) -> bool:
        return min(self.lengths) + 1 >= self._filled(self.length + 1)

    def _grown(self, columns: int) -> int:
        return min(max(super()._grown(columns), self.sinks), self.ring)

    def _reserve(self, batch: int, size: int) -> None:
        super()._reserve(batch, size)
        missing = len(self.keys[0]) - len(self.sink_keys[0]) if self.sinks else 0
        if missing > 0:
            self.sink_keys = [F.pad(keys, (0, 0) * 3 + (0, missing)) for keys in self.sink_keys]
