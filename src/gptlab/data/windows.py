"""Token shards -> (x, y) windows, and the order in which training sees them.

The order is a function of (seed, position) alone. Devices, micro-batches and workers only decide who computes what.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from gptlab.data.shards import Tokens
from gptlab.metrics import IGNORE

Batch = tuple[Tensor, Tensor]


class Windows(Dataset[Batch]):
    """All full windows of a token stream: x = w[:-1], y = w[1:], (T,) each; window i starts at i T."""

    def __init__(self, tokens: Tokens, block_size: int) -> None:
        self.tokens, self.block_size = tokens, block_size

    def __len__(self) -> int:
        return max(0, len(self.tokens) - 1) // self.block_size

    def __getitem__(self, i: int) -> Batch:
        x, y = self.__getitems__([i])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once, (B, T) each."""
        T = self.block_size
        w = np.stack([self.tokens[i * T : i * T + T + 1] for i in indices]).astype(np.int64)
        return torch.from_numpy(w[:, :-1]), torch.from_numpy(w[:, 1:])


class WholeWindows(Windows):
    """Every token of the stream predicted once: the last window is padded, and so are windows past the end."""

    def __len__(self) -> int:
        return -(-max(0, len(self.tokens) - 1) // self.block_size)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        T = self.block_size
        x = torch.zeros(len(indices), T, dtype=torch.int64)
        y = torch.full_like(x, IGNORE)
        for row, i in enumerate(indices):
            w = torch.from_numpy(self.tokens[i * T : i * T + T + 1].astype(np.int64))
            n = max(0, len(w) - 1)
            x[row, :n], y[row, :n] = w[:n], w[1:]
        return x, y


class Order:
    """Position p of training -> window: each epoch is a new permutation of all windows, drawn from (seed, epoch)."""

    def __init__(self, n_windows: int, seed: int) -> None:
        self.n_windows, self.seed = n_windows, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def __getitem__(self, position: int) -> int:
        epoch, i = divmod(position, self.n_windows)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng((self.seed, epoch)).permutation(self.n_windows)
        return int(self._permutation[i])


class TrainBatches(Sampler[list[int]]):
    """The micro-batches of one rank: step s covers positions [s B, s B + B), dealt out micro-batch by micro-batch."""

    def __init__(
        self, order: Order, steps: int, batch_size: int, micro_batch_size: int, rank: int, world_size: int
    ) -> None:
        self.order, self.steps, self.rank, self.world_size = order, steps, rank, world_size
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size

    def __len__(self) -> int:
        return self.steps * self.batch_size // (self.micro_batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            start = (i * self.world_size + self.rank) * self.micro_batch_size
            yield [self.order[p] for p in range(start, start + self.micro_batch_size)]


class EvalBatches(Sampler[list[int]]):
    """Each window on one rank; every rank gets equally many batches (past the end: windows that count nothing)."""

    def __init__(self, n_windows: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_windows, self.batch_size, self.rank, self.world_size = n_windows, batch_size, rank, world_size

    def __len__(self) -> int:
        return -(-self.n_windows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        for i in range(len(self)):
            start = (i * self.world_size + self.rank) * self.batch_size
            stop = start + self.batch_size
            yield list(range(start, stop if self.world_size > 1 else min(stop, self.n_windows)))
