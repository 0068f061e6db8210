"""Token streams -> (x, y) windows, and which process computes which of them.

The order is a function of (seed, position) alone. Devices, micro-batches and workers only decide who computes what.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from gptlab.data.batches.order import Order
from gptlab.data.tokens.shards import Tokens, TokenStream
from gptlab.metrics import IGNORE

Batch = tuple[Tensor, Tensor]
Bounds = Tokens | range
AHEAD = 4096  # positions whose order is computed at once


class Windows(Dataset[Batch]):
    """Window i: x = w[:-1], y = w[1:] with w the ids from starts[i] to stops[i] and the one after, T of them at most.

    What is missing to T is padding that counts nothing, and so are windows past the end.
    """

    def __init__(self, tokens: TokenStream | Tokens, block_size: int, starts: Bounds, stops: Bounds) -> None:
        self.tokens, self.block_size, self.starts, self.stops = tokens, block_size, starts, stops

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def dropped(self) -> int:
        """Tokens at the end that no window predicts."""
        return max(0, len(self.tokens) - 1 - int(self.stops[-1])) if len(self) else max(0, len(self.tokens) - 1)

    @property
    def fill(self) -> float:
        """The share of all positions that is not padding."""
        spans = [np.asarray(bounds, dtype=np.int64) for bounds in (self.starts, self.stops)]
        return float((spans[1] - spans[0]).sum() / (len(self) * self.block_size)) if len(self) else 0.0

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once, (B, T) each."""
        return together([(self, i) for i in indices])

    def ids(self, i: int) -> Tokens:
        """The ids of window i and the one after, if there is one."""
        return self.tokens[int(self.starts[i]) : int(self.stops[i]) + 1]

    def targets(self, i: int) -> int:
        """How many ids window i predicts."""
        return min(int(self.stops[i]), len(self.tokens) - 1) - int(self.starts[i])


def together(windows: Sequence[tuple[Windows, int]]) -> Batch:
    """Windows of one size, (B, T) each, of whatever streams."""
    T = windows[0][0].block_size
    x = np.zeros((len(windows), T), np.int64)
    y = np.full((len(windows), T), IGNORE, np.int64)
    for row, (source, i) in enumerate(windows):
        if i < len(source):
            ids, length = source.ids(i), int(source.stops[i]) - int(source.starts[i])
            x[row, :length] = ids[:length]
            y[row, : len(ids) - 1] = ids[1:]
    return torch.from_numpy(x), torch.from_numpy(y)


def dense(tokens: TokenStream | Tokens, block_size: int, stride: int | None = None) -> Windows:
    """Full windows of the stream, one every `stride` tokens (null: block_size, so that none overlap)."""
    starts = range(0, len(tokens) - block_size, stride or block_size)
    return Windows(tokens, block_size, starts, range(block_size, len(tokens), stride or block_size))


def whole(tokens: TokenStream | Tokens, block_size: int) -> Windows:
    """Every token of the stream predicted once: the last window may be shorter."""
    starts = np.arange(0, len(tokens) - 1, block_size)
    return Windows(tokens, block_size, starts, np.minimum(starts + block_size, len(tokens) - 1))


def packed(tokens: TokenStream, block_size: int, eot: int) -> Windows:
    """Windows that begin where documents begin and take as many whole ones as fit; only documents longer than a window
    are cut. Every token of the stream is an input once, and the separator after a document is its last target."""
    starts, at, n = [], 0, len(tokens)
    document_starts = tokens.document_starts(eot)
    while at < n:
        starts.append(at)
        fits = int(document_starts[np.searchsorted(document_starts, at + block_size, side="right") - 1])
        at = n if at + block_size >= n else fits if fits > at else at + block_size
    begins = np.array(starts, np.int64)
    return Windows(tokens, block_size, begins, np.append(begins[1:], n))


def held_out(tokens: TokenStream, block_size: int, eot: int, by_documents: bool) -> Windows:
    """Every held-out token once, in windows like those of training."""
    return packed(tokens, block_size, eot) if by_documents else whole(tokens, block_size)


def protocol(block_size: int, by_documents: bool, alone: bool) -> dict[str, Any]:
    """In words, how `held_out` text is read: losses compare only where it is the same."""
    windows = "packed by documents" if by_documents else "one after another"
    return {"block_size": block_size, "stride": block_size, "windows": windows, "documents_read_alone": alone}


class TrainWindows(Dataset[Batch]):
    """The windows of all sources, by (source, window)."""

    def __init__(self, sources: Sequence[Windows]) -> None:
        self.sources = list(sources)

    def __getitems__(self, indices: Sequence[tuple[int, int]]) -> Batch:
        return together([(self.sources[source], window) for source, window in indices])


class TrainBatches(Sampler[list[tuple[int, int]]]):
    """The micro-batches of one rank: step s covers positions [s B, s B + B), dealt out micro-batch by micro-batch."""

    def __init__(
        self,
        order: Order,
        steps: int,
        batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        first_step: int = 0,
    ) -> None:
        self.order, self.steps, self.rank, self.world_size = order, steps, rank, world_size
        self.batch_size, self.micro_batch_size, self.first_step = batch_size, micro_batch_size, first_step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.batch_size // (self.micro_batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        end, micro = self.steps * self.batch_size, self.micro_batch_size
        ahead = self.batch_size * max(1, AHEAD // self.batch_size)
        for start in range(self.first_step * self.batch_size, end, ahead):
            places = self.order.at(range(start, min(start + ahead, end)))
            for i in range(self.rank * micro, len(places), self.world_size * micro):
                yield places[i : i + micro]


class EvalBatches(Sampler[list[int]]):
    """Each window on one rank, in batches of one size (past the end: windows that count nothing)."""

    def __init__(self, n_windows: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_windows, self.batch_size, self.rank, self.world_size = n_windows, batch_size, rank, world_size

    def __len__(self) -> int:
        return -(-self.n_windows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            start = (i * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))
