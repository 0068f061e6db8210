"""Keep the keys and values of texts that come and go, each of its own length: a row is a slot that is used again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gptlab.model.attention import CacheShape, KVCache

COLUMNS = 64  # the buffers grow by at least so many columns


class SlotCache(KVCache):
    """A KV cache whose rows begin at column 0 and have their own lengths, for continuous batching (Yu et al. 2022).

    `put` copies the rows of another cache behind the last row, `select` drops rows and moves others into their places;
    the buffers grow when they are full, by doubling.
    """

    def __init__(self, shape: CacheShape) -> None:
        super().__init__(shape, 0, 0)
        self.lengths: list[int] = []  # of each row
        self._at: Tensor | None = None  # the same, on the device

    @property
    def batch(self) -> int:
        """The number of rows."""
        return len(self.lengths)

    def put(self, cache: KVCache, rows: Sequence[int], at: Sequence[int] | None = None) -> None:
        """Copy rows of another cache behind the last one, or in the place of the rows `at`."""
        first, end = len(self.lengths), cache.length
        padding = [0] * cache.batch if cache.padding is None else cache.padding.tolist()
        places = range(first, first + len(rows)) if at is None else at
        self._reserve(max([first, *(place + 1 for place in places)]), max(end - padding[row] for row in rows))
        for place, row in zip(places, rows, strict=True):
            n = end - padding[row]
            for mine, other in ((self.keys, cache.keys), (self.values, cache.values)):
                for layer, buffer in enumerate(mine):
                    buffer[place, :, :n] = other[layer][row, :, padding[row] : end]
            self.lengths[place : place + 1] = [n]
        self._changed()

    def select(self, rows: Tensor) -> None:
        """Make row i the continuation of row `rows[i]`; rows that stay are not copied, as far as that is possible."""
        sources = rows.tolist()
        moved = [(place, row) for place, row in enumerate(sources) if place != row]
        if {row for _, row in moved} & {place for place, _ in moved}:
            super().select(rows)
        else:
            for place, row in moved:
                n = self.lengths[row]
                for buffer in (*self.keys, *self.values):
                    buffer[place, :, :n] = buffer[row, :, :n]
        self.lengths = [self.lengths[row] for row in sources]
        self._changed()

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D) of a layer; return all of its keys and values up to the longest row."""
        T, B = k.shape[2], self.batch
        self._reserve(B, self.length + T)
        rows, at = torch.arange(B, device=k.device)[:, None], self.columns(T)
        for buffer, new in ((self.keys[layer], k), (self.values[layer], v)):
            buffer[rows, :, at] = new.transpose(1, 2).to(buffer.dtype)  # (B, T, H, D)
        end = self.length + T
        return self.keys[layer][:B, :, :end], self.values[layer][:B, :, :end]

    def advance(self, T: int) -> None:
        """Count the T tokens whose keys and values all layers have appended."""
        self.lengths = [n + T for n in self.lengths]
        self._changed()

    def columns(self, T: int) -> Tensor:
        """Return the columns of the next T tokens of each row, (B, T); they are the positions, too."""
        if self._at is None:
            self._at = torch.tensor(self.lengths, device=self.keys[0].device)
        return self._at[:, None] + torch.arange(T, device=self._at.device)

    def positions(self, T: int) -> Tensor:
        """Return the positions of the next T tokens of each row, (B, T)."""
        return self.columns(T)

    def mask(self, T: int) -> Tensor | None:
        """Return the bias on the scores of the next T tokens, (B, 1, T, S); None where every row sees all columns."""
        if T == 1 and min(self.lengths) == self.length:
            return None
        at = self.columns(T)
        hidden = torch.arange(self.length + T, device=at.device) > at[:, :, None]  # (B, T, S)
        return torch.zeros(hidden.shape, device=at.device).masked_fill(hidden, -torch.inf).unsqueeze(1)

    def _changed(self) -> None:
        self.length, self._at = max(self.lengths, default=0), None

    def _grown(self, columns: int) -> int:
        """Return the columns of new buffers in which so many are needed."""
        return max(columns, 2 * self.size, COLUMNS)

    def _reserve(self, batch: int, size: int) -> None:
        """Make room for so many rows and columns; what grows is doubled."""
        rows, columns = self.keys[0].shape[0], self.size
        if batch <= rows and size <= columns:
            return
        rows = rows if batch <= rows else max(batch, 2 * rows)
        columns = columns if size <= columns else self._grown(size)
        for buffers in (self.keys, self.values):
            for layer, old in enumerate(buffers):
                B, H, S, D = old.shape
                buffers[layer] = old.new_zeros(rows, H, columns, D)
                buffers[layer][:B, :, :S] = old
        self.size = columns
