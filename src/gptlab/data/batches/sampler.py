"""Deal windows out to ranks and micro-batches.

The order is a function of (seed, position) alone. Devices, micro-batches and workers only decide which process computes
which window.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from torch.utils.data import Sampler

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches.order import Ints, Order

AHEAD = 4096  # positions whose order is computed at once


class MicroBatch(NamedTuple):
    """Name the windows of one forward pass of one rank, and count the targets and tokens of their whole step."""

    windows: list[tuple[int, int]]  # (source, window)
    step_targets: int | None = None
    step_tokens: int | None = None


class Counts(Protocol):
    """Say how many targets windows have, and how many tokens are read of them (`TrainWindows`)."""

    @property
    def full_size(self) -> int | None: ...

    def targets(self, source: Ints, window: Ints) -> Ints: ...

    def lengths(self, source: Ints, window: Ints) -> Ints: ...


class TrainBatches(Sampler[MicroBatch]):
    """The micro-batches of one rank: a step covers as many positions as its size, dealt out micro-batch by micro-batch.

    With `counts` each of them carries the numbers of targets and tokens of its step, over all ranks; without, None.
    """

    def __init__(
        self,
        order: Order,
        steps: int,
        sizes: BatchSizes,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        first_step: int = 0,
        counts: Counts | None = None,
    ) -> None:
        self.order, self.steps, self.rank, self.world_size = order, steps, rank, world_size
        self.sizes, self.micro_batch_size, self.first_step = sizes, micro_batch_size, first_step
        self.counts = counts

    def __len__(self) -> int:
        sequences = self.sizes.start(self.steps) - self.sizes.start(self.first_step)
        return sequences // (self.micro_batch_size * self.world_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        step, micro = self.first_step, self.micro_batch_size
        while step < self.steps:
            last = max(step + 1, min(self.steps, self.sizes.steps(self.sizes.start(step) + AHEAD)))
            starts = [self.sizes.start(each) for each in range(step, last + 1)]
            source, window = self.order.arrays(range(starts[0], starts[-1]))
            steps = [(start - starts[0], stop - starts[0]) for start, stop in pairwise(starts)]
            places = list(zip(source.tolist(), window.tolist(), strict=True))
            for (start, stop), counted in zip(steps, self._step_sizes(source, window, steps), strict=True):
                for i in range(start + self.rank * micro, stop, self.world_size * micro):
                    yield MicroBatch(places[i : i + micro], *counted)
            step = last

    def _step_sizes(
        self, source: Ints, window: Ints, steps: Sequence[tuple[int, int]]
    ) -> list[tuple[int | None, int | None]]:
        """Return the numbers of targets and tokens of some steps, each given by its first window and the one behind."""
        counts = self.counts
        if counts is None:
            return [(None, None)] * len(steps)
        if counts.full_size is not None:
            return [((stop - start) * counts.full_size,) * 2 for start, stop in steps]
        begins = [start for start, _ in steps]
        each = (counts.targets(source, window), counts.lengths(source, window))
        targets, tokens = (np.add.reduceat(values, begins).tolist() for values in each)
        return list(zip(targets, tokens, strict=True))


class EvalBatches(Sampler[list[int]]):
    """Batches of one size in which each window goes to one rank; numbers past the end are empty windows."""

    def __init__(self, n_windows: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_windows, self.batch_size, self.rank, self.world_size = n_windows, batch_size, rank, world_size

    def __len__(self) -> int:
        return -(-self.n_windows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            start = (i * self.world_size + self.rank) * self.batch_size
            yield list(range(start, start + self.batch_size))
