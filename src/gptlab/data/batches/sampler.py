"""Deal windows out to ranks and micro-batches.

The order is a function of (seed, position) alone. Devices, micro-batches and workers only decide which process computes
which window.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch.utils.data import Sampler

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
    """The micro-batches of one rank: step s covers positions [s B, s B + B), dealt out micro-batch by micro-batch.

    With `counts` each of them carries the numbers of targets and tokens of its step, over all ranks; without, None.
    """

    def __init__(
        self,
        order: Order,
        steps: int,
        batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        first_step: int = 0,
        counts: Counts | None = None,
    ) -> None:
        self.order, self.steps, self.rank, self.world_size = order, steps, rank, world_size
        self.batch_size, self.micro_batch_size, self.first_step = batch_size, micro_batch_size, first_step
        self.counts = counts

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.batch_size // (self.micro_batch_size * self.world_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        B, micro = self.batch_size, self.micro_batch_size
        end, ahead = self.steps * B, B * max(1, AHEAD // B)
        for start in range(self.first_step * B, end, ahead):
            source, window = self.order.arrays(range(start, min(start + ahead, end)))
            sizes = self._step_sizes(source, window)
            places = list(zip(source.tolist(), window.tolist(), strict=True))
            for i in range(self.rank * micro, len(places), self.world_size * micro):
                yield MicroBatch(places[i : i + micro], *sizes[i // B])

    def _step_sizes(self, source: Ints, window: Ints) -> list[tuple[int | None, int | None]]:
        """Return the numbers of targets and tokens of each of some whole steps."""
        steps, counts = len(source) // self.batch_size, self.counts
        if counts is None:
            return [(None, None)] * steps
        if counts.full_size is not None:
            return [(self.batch_size * counts.full_size,) * 2] * steps
        each = (counts.targets(source, window), counts.lengths(source, window))
        targets, tokens = (values.reshape(steps, -1).sum(1).tolist() for values in each)
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
