"""Cut token streams into windows of ids and targets."""

import itertools
from array import array
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.order import Ints
from gptlab.data.batches.sampler import MicroBatch
from gptlab.data.tokens.shards import Tokens, TokenStream

Bounds = Tokens | range


class Windows(Dataset[Batch]):
    """The windows of a stream: x = w[:-1], y = w[1:], with w the ids from starts[i] to stops[i] and the one after.

    A window has at most T = block_size ids. Shorter ones are padded; padding, and windows past the end, have no
    targets.
    """

    def __init__(self, tokens: TokenStream | Tokens, block_size: int, starts: Bounds, stops: Bounds) -> None:
        self.tokens, self.block_size, self.starts, self.stops = tokens, block_size, starts, stops
        self.masked = tokens if isinstance(tokens, TokenStream) and tokens.has_mask else None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def dropped(self) -> int:
        """The number of tokens at the end that no window predicts."""
        return max(0, len(self.tokens) - 1 - int(self.stops[-1])) if len(self) else max(0, len(self.tokens) - 1)

    @property
    def fill(self) -> float:
        """The share of all positions that is not padding."""
        return float(self.lengths.sum() / (len(self) * self.block_size)) if len(self) else 0.0

    @property
    def full(self) -> bool:
        """True if each position of each window has a target, which is known without looking at the windows."""
        return isinstance(self.starts, range) and self.masked is None

    @cached_property
    def lengths(self) -> Ints:
        """The number of ids that are read of each window, (N,) int64: all but padding."""
        if isinstance(self.starts, range):
            return np.broadcast_to(np.int64(self.block_size), (len(self),))  # takes no memory
        return np.asarray(self.stops, dtype=np.int64) - np.asarray(self.starts, dtype=np.int64)

    @cached_property
    def targets(self) -> Ints:
        """The number of targets of each window, (N,) int64."""
        if self.full:
            return np.broadcast_to(np.int64(self.block_size), (len(self),))  # takes no memory
        starts, stops = (np.asarray(bounds, dtype=np.int64) for bounds in (self.starts, self.stops))
        last = np.minimum(stops, len(self.tokens) - 1)
        if self.masked is None:
            return last - starts
        return self.masked.counted_before(last + 1) - self.masked.counted_before(starts + 1)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a whole batch at once, (B, T) each."""
        return together([(self, i) for i in indices])

    def at(self, i: int) -> tuple["Windows", int]:
        """Return the windows that hold window i, and its place there."""
        return self, i

    def targets_of(self, numbers: Ints) -> Ints:
        """Return the number of targets of each of some windows, (N,) int64."""
        found: Ints = self.targets[numbers]
        return found

    def lengths_of(self, numbers: Ints) -> Ints:
        """Return the number of ids that are read of each of some windows, (N,) int64."""
        found: Ints = self.lengths[numbers]
        return found

    def ids(self, i: int) -> Tokens:
        """Return the ids of window i and the one after, if there is one."""
        return self.tokens[int(self.starts[i]) : int(self.stops[i]) + 1]

    def ignored(self, i: int) -> Tokens | None:
        """Return a mask of the ids of window i after its first that are not targets, bool; None if all count."""
        mask = self.masked and self.masked.mask(slice(int(self.starts[i]), int(self.stops[i]) + 1))
        return None if mask is None else mask[1:] == 0


def together(
    windows: Sequence[tuple[Windows, int]], step_targets: int | None = None, step_tokens: int | None = None
) -> Batch:
    """Return windows of one size, of any streams, as a batch of (B, T) each."""
    T = windows[0][0].block_size
    x = np.zeros((len(windows), T), np.int64)
    y = np.full((len(windows), T), IGNORE, np.int64)
    for row, (source, i) in enumerate(each.at(number) for each, number in windows):
        if i < len(source):
            ids, length = source.ids(i), int(source.stops[i]) - int(source.starts[i])
            x[row, :length] = ids[:length]
            y[row, : len(ids) - 1] = ids[1:]
            if (ignored := source.ignored(i)) is not None:
                y[row, : len(ids) - 1][ignored] = IGNORE
    return Batch(torch.from_numpy(x), torch.from_numpy(y), step_targets, step_tokens)


def dense(tokens: TokenStream | Tokens, block_size: int, stride: int | None = None) -> Windows:
    """Return full windows of the stream, one every `stride` tokens (None: block_size, so that none overlap)."""
    starts = range(0, len(tokens) - block_size, stride or block_size)
    return Windows(tokens, block_size, starts, range(block_size, len(tokens), stride or block_size))


def whole(tokens: TokenStream | Tokens, block_size: int) -> Windows:
    """Return windows that predict every token of the stream once: the last one may be shorter."""
    bounds = np.append(np.arange(0, len(tokens) - 1, block_size), max(0, len(tokens) - 1))
    return Windows(tokens, block_size, bounds[:-1], bounds[1:])


def packed(tokens: TokenStream, block_size: int, eot: int) -> Windows:
    """Return windows that begin where documents begin and take as many whole ones as fit.

    Only documents longer than a window are cut. Every token of the stream is an input once, and the separator after a
    document is its last target. Takes 8 bytes a window.
    """
    bounds, at, n = array("q", [0]), 0, len(tokens)
    known = np.empty(0, np.int64)  # where documents begin, from `at` on
    for block in itertools.chain(tokens.start_blocks(eot), [np.array([n])]):
        known = np.concatenate([known[known > at], block])
        while at < n and len(known) and (known[-1] > at + block_size or known[-1] == n):
            fits = int(known[max(0, int(np.searchsorted(known, at + block_size, side="right")) - 1)])
            at = n if at + block_size >= n else fits if at < fits <= at + block_size else at + block_size
            bounds.append(at)
    every: Tokens = np.array(bounds)
    return Windows(tokens, block_size, every[:-1], every[1:])


def held_out(tokens: TokenStream, block_size: int, eot: int, by_documents: bool) -> Windows:
    """Return windows that predict every held-out token once, built like those of training."""
    return packed(tokens, block_size, eot) if by_documents else whole(tokens, block_size)


def protocol(block_size: int, by_documents: bool, alone: bool) -> dict[str, Any]:
    """Return a description of how `held_out` text is read: losses compare only if it is the same."""
    windows = "packed by documents" if by_documents else "one after another"
    return {"block_size": block_size, "stride": block_size, "windows": windows, "documents_read_alone": alone}


class TrainWindows(Dataset[Batch]):
    """The windows of all sources, by (source, window)."""

    def __init__(self, sources: Sequence[Windows]) -> None:
        self.sources = list(sources)

    def __getitems__(self, micro_batch: MicroBatch) -> Batch:
        """Return the windows of a micro-batch, which says how many targets and tokens its step has."""
        return self.rows(*micro_batch)

    def rows(
        self, windows: Sequence[tuple[int, int]], step_targets: int | None = None, step_tokens: int | None = None
    ) -> Batch:
        """Return (source, window) pairs as a batch, (N, T) each."""
        return together([(self.sources[source], window) for source, window in windows], step_targets, step_tokens)

    def targets(self, source: Ints, window: Ints) -> Ints:
        """Return the number of targets of each (source, window), (N,) int64."""
        return _of_sources([windows.targets_of for windows in self.sources], source, window)

    def lengths(self, source: Ints, window: Ints) -> Ints:
        """Return the number of ids that are read of each (source, window), (N,) int64."""
        return _of_sources([windows.lengths_of for windows in self.sources], source, window)

    @property
    def full_size(self) -> int | None:
        """The number of targets and of ids of each window, where it is one number for all of them."""
        return self.sources[0].block_size if all(windows.full for windows in self.sources) else None


def _of_sources(each: Sequence[Callable[[Ints], Ints]], source: Ints, window: Ints) -> Ints:
    """Return the numbers that the sources have of their windows, by a function of `each`, at (source, window), (N,)."""
    found = np.empty(len(source), np.int64)
    for k, of_windows in enumerate(each):
        found[source == k] = of_windows(window[source == k])
    return found
