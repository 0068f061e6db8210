"""Cut token streams into overlapping windows, each of which predicts only what the windows before it have not."""

from functools import cached_property

import numpy as np

from gptlab.data.batches.order import Ints
from gptlab.data.batches.windows import Windows
from gptlab.data.tokens.shards import Tokens, TokenStream


class SlidingWindows(Windows):
    """Windows over each document by itself that move on by `stride` ids; every token of the stream is a target once.

    A window reads T = block_size ids, also the last one of a document, which begins earlier instead of being shorter.
    So a target has at least T - stride + 1 ids before it, or all of its document, which begins with the separator.
    """

    def __init__(self, tokens: TokenStream, block_size: int, stride: int, eot: int) -> None:
        bounds = np.append(tokens.document_starts(eot), len(tokens) - 1)  # what ends a document begins the next one
        bounds = bounds[np.append(np.diff(bounds) > 0, True)]
        begins, ends = bounds[:-1], bounds[1:]
        counts = 1 + np.maximum(0, -((block_size - (ends - begins)) // stride))  # rounded up
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        begins, ends = np.repeat(begins, counts), np.repeat(ends, counts)
        full = begins + block_size + within * stride
        stops = np.minimum(full, ends)
        super().__init__(tokens, block_size, np.maximum(begins, stops - block_size), stops)
        self.read_before: Ints = np.where(within == 0, begins, full - stride)  # the last id that is no target

    @cached_property
    def targets(self) -> Ints:
        """The number of targets of each window, (N,) int64."""
        stops = np.asarray(self.stops, np.int64)
        if self.masked is None:
            return stops - self.read_before
        return self.masked.counted_before(stops + 1) - self.masked.counted_before(self.read_before + 1)

    def ignored(self, i: int) -> Tokens:
        """Return a mask of the ids of window i after its first that are not targets, bool."""
        first = int(self.starts[i])
        masked = super().ignored(i)
        found = np.arange(first, int(self.stops[i])) < self.read_before[i]
        return found if masked is None else found | masked
