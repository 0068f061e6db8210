"""Pack documents in a new order each epoch: a function of (seed, epoch, source) alone."""

from bisect import bisect_right
from collections.abc import Callable, Iterator

import numpy as np

from gptlab.data.batches.order import ROUNDS, Ints, permute
from gptlab.data.batches.windows import Windows
from gptlab.data.tokens.shards import BLOCK, Tokens, TokenStream
from gptlab.randomness import round_keys

KEPT = 2  # epochs whose order is held in memory


class Reordered(TokenStream):
    """Read the documents of a stream in another order, as one array of ids (N,); takes 24 bytes a document."""

    def __init__(self, stream: TokenStream, starts: Tokens, order: Ints) -> None:
        self.stream, self.has_mask = stream, stream.has_mask
        lengths = np.diff(np.append(starts, len(stream)))[order]
        self.sources, self.ends = starts[order], np.cumsum(lengths)
        self.begins = self.ends - lengths

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, part: slice) -> Tokens:
        return np.concatenate([self.stream[piece] for piece in self._pieces(part)] or [np.empty(0, np.uint16)])

    def mask(self, part: slice) -> Tokens | None:
        """Return the loss mask of the ids of a slice, (N,) uint8; None where all tokens count."""
        if not self.has_mask:
            return None
        found = [self.stream.mask(piece) for piece in self._pieces(part)]
        return np.concatenate([each for each in found if each is not None] or [np.empty(0, np.uint8)])

    def blocks(self) -> Iterator[Tokens]:
        """Yield all ids, in order, a piece at a time."""
        return (self[i : i + BLOCK] for i in range(0, len(self), BLOCK))

    def mask_blocks(self) -> Iterator[Tokens]:
        """Yield the loss mask beside `blocks`; nothing where all tokens count."""
        found = (self.mask(slice(i, i + BLOCK)) for i in range(0, len(self), BLOCK))
        return (block for block in found if block is not None)

    def start_blocks(self, eot: int) -> Iterator[Tokens]:
        """Yield where documents begin, (D,) int64, at once."""
        yield self.begins

    def _pieces(self, part: slice) -> Iterator[slice]:
        """Yield where in the stream the pieces of a slice are."""
        start, stop, _ = part.indices(len(self))
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            end = min(stop, int(self.ends[number]))
            shift = int(self.sources[number] - self.begins[number])
            yield slice(start + shift, end + shift)
            start, number = end, number + 1


class Repacked(Windows):
    """Read windows that are cut again in each epoch, from the documents in a new order.

    They are numbered through: those of the first epoch, where the documents are in the order of the text, then those of
    the second one, and so on. Length, targets, fill and dropped tokens are those of the first epoch.
    """

    def __init__(
        self, stream: TokenStream, eot: int, cut: Callable[[TokenStream], Windows], seed: int, source: int
    ) -> None:
        first = cut(stream)
        super().__init__(stream, first.block_size, first.starts, first.stops)
        self.stream, self.cut, self.seed, self.source = stream, cut, seed, source
        self.document_starts = stream.document_starts(eot)
        self.fixed = int(len(stream) > 0 and int(stream[0:1][0]) != eot)  # a first document without a separator
        self.same_size = isinstance(first.starts, range)
        self._bounds, self._kept = [0, len(first)], {0: first}

    @property
    def documents(self) -> int:
        """The number of documents that can be in another order."""
        return len(self.document_starts) - self.fixed

    def bounds(self, number: int) -> list[int]:
        """Return the number of the first window of each epoch, up to one beyond the epoch of window `number`."""
        while self._bounds[-1] <= number:
            size = len(self) if self.same_size else len(self.epoch(len(self._bounds) - 1))
            self._bounds.append(self._bounds[-1] + size)
        return self._bounds

    def epoch(self, number: int) -> Windows:
        """Return the windows of an epoch."""
        if number not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))  # the oldest
            self._kept[number] = self.cut(self._reordered(number) if number else self.stream)
        return self._kept[number]

    def _reordered(self, epoch: int) -> TokenStream:
        keys = round_keys(self.seed, "repack", epoch, self.source, rounds=ROUNDS)
        order = np.arange(len(self.document_starts))
        order[self.fixed :] = self.fixed + permute(np.arange(self.documents), self.documents, keys)
        return Reordered(self.stream, self.document_starts, order)

    def at(self, i: int) -> tuple[Windows, int]:
        """Return the windows of the epoch of window i, and its place there."""
        number = bisect_right(self.bounds(i), i) - 1
        return self.epoch(number), i - self._bounds[number]

    def ids(self, i: int) -> Tokens:
        """Return the ids of window i and the one after, if there is one."""
        windows, i = self.at(i)
        return windows.ids(i)

    def targets_of(self, numbers: Ints) -> Ints:
        """Return the number of targets of each of some windows, (N,) int64."""
        return self._of_epochs(numbers, Windows.targets_of)

    def lengths_of(self, numbers: Ints) -> Ints:
        """Return the number of ids that are read of each of some windows, (N,) int64."""
        return self._of_epochs(numbers, Windows.lengths_of)

    def _of_epochs(self, numbers: Ints, of_windows: Callable[[Windows, Ints], Ints]) -> Ints:
        bounds = np.array(self.bounds(int(numbers.max(initial=0))))
        epochs, found = np.searchsorted(bounds, numbers, side="right") - 1, np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            found[here] = of_windows(self.epoch(int(epoch)), numbers[here] - bounds[epoch])
        return found
