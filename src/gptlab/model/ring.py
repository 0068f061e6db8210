"""Keep the keys and values of the last tokens only, each in the place of one that is forgotten: a ring."""

import torch
from torch import Tensor

from gptlab.model.attention import KVCache
from gptlab.model.slots import SlotCache


class RingCache(KVCache):
    """A KV cache of the last `ring` tokens, as the rolling buffer of Mistral 7B (Jiang et al. 2023).

    Columns are counted on, and column c is kept in place c % ring. Each token attends to the `ring` columns that end
    with its own: a text of any length gets the logits of one pass over it with this band as a mask. `size` may be less
    than `ring` for texts that do not become longer.
    """

    announced = 0  # columns of texts that are read in several parts

    def __init__(
        self,
        n_layer: int,
        n_kv_head: int,
        head_dim: int,
        batch: int,
        size: int,
        like: Tensor,
        padding: Tensor | None,
        ring: int,
    ) -> None:
        super().__init__(n_layer, n_kv_head, head_dim, batch, min(size, ring), like, padding)
        self.ring = ring
        self._gap = 0 if padding is None else int(padding.max())

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, T, D) of a layer; return those of the columns `key_columns(T)`."""
        return self._extended(self.keys[layer], k), self._extended(self.values[layer], v)

    def _extended(self, kept: Tensor, new: Tensor) -> Tensor:
        B, T, new = self.batch, new.shape[2], new.to(kept.dtype)
        both = new
        if T > 1 and self.length:  # what is kept is seen by the first of the new tokens, and overwritten by the last
            both = torch.cat([kept[:B, :, : self._filled(self.length)], new], dim=2)
        self._write(kept, new[:, :, -self.ring :], self.columns(T)[..., -self.ring :] % self.ring)
        return both if T > 1 else kept[:B, :, : self._filled(self.length + 1)]

    def _write(self, kept: Tensor, new: Tensor, places: Tensor) -> None:
        if new.shape[2] == 1:  # without an index on the device
            place = self.length % self.ring
            kept[:, :, place : place + 1] = new
        else:
            kept[:, :, places] = new

    def _filled(self, columns: int) -> int:
        """Return how many places are filled after so many columns."""
        return min(columns, self.ring)

    def key_columns(self, T: int) -> Tensor:
        """Return the columns of the keys that the next T tokens look at, (S,) or (B, S); negative ones are empty."""
        new = self.columns(T)
        last = new[..., :1] if T == 1 else new[..., :1] - 1  # a single token is in its place before it looks
        places = torch.arange(self._filled(self.length + (T == 1)), device=new.device)
        kept = last - (last - places) % self.ring
        return kept if T == 1 else torch.cat([kept, new], dim=-1)

    def text_lengths(self, T: int) -> Tensor:
        """Return how many tokens of each text are in view at the end of what is read, (1,) or (B, 1)."""
        rest = max(0, self.announced - self.length - T)
        ends = self.columns(T)[..., -1:] + 1 + rest
        return (ends if self.padding is None else ends - self.padding[:, None]).clamp(max=self.ring)

    def mask(self, T: int) -> Tensor | None:
        """Return the bias on the scores of the next T tokens, (B or 1, 1, T, S); None for causal attention."""
        if self._sees_all() if T == 1 else self.length == 0 and T <= self.ring and self.padding is None:
            return None
        at, keys = self.columns(T), self.key_columns(T)
        empty = keys < (0 if self.padding is None else self.padding[:, None])  # (S,) or (B, S)
        distance = at[..., :, None] - keys[..., None, :]  # (T, S) or (B, T, S)
        empty = empty[..., None, :] & (distance != 0)  # padding sees itself: no row is empty
        hidden = (distance < 0) | (distance >= self.ring) | empty
        return torch.zeros(hidden.shape, device=at.device).masked_fill(hidden, -torch.inf).unsqueeze(-3)

    def _sees_all(self) -> bool:
        """Return whether the next token of every row attends to all that is kept."""
        return self.length + 1 - self._filled(self.length + 1) >= self._gap


class RingSlots(RingCache, SlotCache):
    """A ring for each of the texts that come and go; those that join have at most `ring` tokens."""

    def __init__(self, n_layer: int, n_kv_head: int, head_dim: int, like: Tensor, ring: int) -> None:
        SlotCache.__init__(self, n_layer, n_kv_head, head_dim, like)
        self.ring = ring

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, T, D) of a layer; return those of the columns `key_columns(T)`."""
        self._reserve(self.batch, self._filled(self.length + k.shape[2]))
        return super().extend(layer, k, v)

    def _write(self, kept: Tensor, new: Tensor, places: Tensor) -> None:
        rows = torch.arange(len(new), device=new.device)[:, None]
        kept[rows, :, places] = new.transpose(1, 2)  # (B, T, H, D)

    def _sees_all(self) -> bool:
        return min(self.lengths) + 1 >= self._filled(self.length + 1)

    def _grown(self, columns: int) -> int:
        return min(super()._grown(columns), self.ring)
