"""Order the windows of training by a function of (seed, position) alone, in constant memory."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptlab.errors import require
from gptlab.randomness import Words, round_keys

ROUNDS = 8
MIXED = 32  # batches among which examples are sorted by length
BLOCK = 1024  # positions in which the sources of a mixture have their shares

Ints = np.ndarray[Any, np.dtype[Any]]


def permute(i: Ints, n: int, keys: Words) -> Ints:
    """Return the positions of i (N,) in a permutation of 0 .. n-1 chosen by `keys`, without holding it in memory.

    A Feistel network (Luby & Rackoff 1988), one round a key, permutes the next power of four; a number that lands
    beyond n goes through it again until it is inside ("cycle walking", Black & Rogaway 2002).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    out = np.array(i, dtype=np.uint64)
    walking = np.arange(len(out))
    while len(walking):
        x = out[walking]
        left, right = x >> shift, x & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        x = left << shift | right
        out[walking] = x
        walking = walking[x >= n]
    return out.astype(np.int64)


def _mix(x: Ints) -> Ints:
    """Mix the bits of x (N,) uint64, each into about half of the result's: the finalizer of MurmurHash3."""
    x = (x ^ x >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ x >> np.uint64(33)) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ x >> np.uint64(33)


class Order:
    """A map from each position of training to the window that is read there: position -> (source, window).

    Each source goes through its windows in epochs, every epoch a new permutation. In each block of 1,024 positions a
    source has its share by weight, at places that are drawn again for every block. With a `period` the first `period`
    positions repeat. Where the windows of a source differ between epochs they are numbered through, and `bounds` gives
    the number of each epoch's first window, up to one beyond the epoch of the window that it is called with.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        seed: int,
        period: int | None = None,
        bounds: Sequence[Callable[[int], Sequence[int]] | None] | None = None,
    ) -> None:
        self.lengths, self.seed, self.period = list(lengths), seed, period
        self.bounds = list(bounds or [None] * len(self.lengths))
        exact = np.array(weights) / np.sum(weights) * BLOCK
        self.shares = np.floor(exact).astype(np.int64)  # positions of a block, by source
        largest = np.argsort(self.shares - exact, kind="stable")  # by what rounding down left over
        self.shares[largest[: BLOCK - self.shares.sum()]] += 1
        why, todo = f"is less than one window in {BLOCK}", "raise it, or leave the part out"
        require(bool((self.shares > 0).all()), "data.weights", float(np.min(weights)), why, todo)
        self._slots = np.repeat(np.arange(len(self.shares)), self.shares)  # the sources of a block, before it is mixed

    def __getitem__(self, position: int) -> tuple[int, int]:
        return self.at(range(position, position + 1))[0]

    def at(self, positions: range) -> list[tuple[int, int]]:
        """Return (source, window) at each of some consecutive positions."""
        source, window = self.arrays(positions)
        return list(zip(source.tolist(), window.tolist(), strict=True))

    def arrays(self, positions: range) -> tuple[Ints, Ints]:
        """Return the sources and the windows at N consecutive positions, (N,) int64 each."""
        p = np.arange(positions.start, positions.stop)
        if self.period:
            p %= self.period
        if len(self.lengths) == 1:
            source, number = np.zeros(len(p), np.int64), p
        else:
            source, number = self._in_mixture(p)
        window = np.empty(len(p), np.int64)
        for k, (n, bounds) in enumerate(zip(self.lengths, self.bounds, strict=True)):
            mine = number[source == k]
            firsts = np.array(bounds(int(mine.max()))) if bounds and len(mine) else None
            epochs = mine // n if firsts is None else np.searchsorted(firsts, mine, side="right") - 1
            found = np.empty(len(mine), np.int64)
            for epoch in np.unique(epochs).tolist():
                first, size = (epoch * n, n) if firsts is None else (firsts[epoch], int(np.diff(firsts)[epoch]))
                here, keys = epochs == epoch, self._keys(epoch, k)
                found[here] = permute(mine[here] - first, size, keys) + (0 if firsts is None else first)
            window[source == k] = found
        return source, window

    def _in_mixture(self, p: Ints) -> tuple[Ints, Ints]:
        """Return the source at each position, and the number of earlier positions of the same source."""
        source, number = np.empty(len(p), np.int64), np.empty(len(p), np.int64)
        for block in np.unique(p // BLOCK):
            here = p // BLOCK == block
            mixed = self._slots[permute(np.arange(BLOCK), BLOCK, self._keys(int(block), len(self.lengths)))]
            before = np.empty(BLOCK, np.int64)
            for k, share in enumerate(self.shares):
                before[mixed == k] = block * share + np.arange(share)
            source[here], number[here] = mixed[p[here] % BLOCK], before[p[here] % BLOCK]
        return source, number

    def _keys(self, epoch: int, source: int) -> Words:
        """Return the keys of an epoch of a source; the number after the last source means a block of the mixture."""
        return round_keys(self.seed, "order", epoch, source, rounds=ROUNDS)


class OrderByLength(Order):
    """An order in which the examples of a batch have similar lengths, so that little of it is padding.

    The examples of every 32 batches are sorted by length, and these batches are mixed again: each example is read as
    often as without. `lengths` (N,) are those of the examples.
    """

    def __init__(self, lengths: Ints, batch_size: int, seed: int) -> None:
        super().__init__([len(lengths)], [1.0], seed)
        self.sizes, self.batch_size = lengths, batch_size

    def arrays(self, positions: range) -> tuple[Ints, Ints]:
        """Return the sources, which are 0, and the examples at N consecutive positions, (N,) int64 each."""
        size = MIXED * self.batch_size
        first, last = positions.start // size, -(-positions.stop // size)
        found = [np.zeros(0, np.int64)]
        for block in range(first, last):
            number = super().arrays(range(block * size, (block + 1) * size))[1]
            batches = number[np.argsort(-self.sizes[number], kind="stable")].reshape(MIXED, self.batch_size)
            found.append(batches[permute(np.arange(MIXED), MIXED, self._keys(block, 1))].ravel())
        every = np.concatenate(found)[positions.start - first * size :][: len(positions)]
        return np.zeros(len(positions), np.int64), every
