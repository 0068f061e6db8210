"""Make the batches of a run from a user's own LightningDataModule."""

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sized
from fractions import Fraction
from functools import cached_property
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.datamodule import KnownData, watched
from gptlab.data.batches.rows import Rows, as_rows, regrouped
from gptlab.data.config import ForeignData
from gptlab.errors import require
from gptlab.files import cache_dir
from gptlab.randomness import random_seed


class ForeignDataModule(KnownData):
    """The batches of one run, made of the rows of another LightningDataModule.

    Its loaders may give any batches that `as_rows` understands. Its training loader is repeated in epochs. Each step
    takes as many rows as `batch_sizes` has, whatever batches they came in, padded to one length. All ranks read the
    same rows and each computes its own, so that the targets of a step are counted over all ranks without communication.

    A run that is resumed reads from the first epoch and skips the rows of the steps that are done. Its batches are
    those of a run that was never stopped, if the loader is a function of the global generators of torch, NumPy and
    Python: they are seeded for every epoch, and kept apart from those of training.

    Set `steps` and `micro_batch_size` before asking for a loader.
    """

    def __init__(
        self, module: L.LightningDataModule, config: ForeignData, block_size: int, seed: int, n_vocab: int
    ) -> None:
        super().__init__(config.sha256(), config)
        self.config, self.module, self.block_size, self.seed, self.n_vocab = config, module, block_size, seed, n_vocab
        self.steps, self.micro_batch_size = 0, 1
        self.separator: int | None = None
        self.loader: _Batches | None = None
        self._is_ready = False

    @cached_property
    def tokens_per_step(self) -> float:
        """The number of ids that the first step reads; the others read as many where all rows are full."""
        _, y = next(self._steps(self._train()))
        return tokens_read(y)

    @cached_property
    def tokens_per_epoch(self) -> int | None:
        """The number of ids of all rows, if each has as many as those of the first step do on average.

        None if the training loader has no length.
        """
        loader = self._train()
        if not isinstance(loader, Sized):
            return None
        rows = len(loader) * len(next(self._epochs(loader))[0])
        if isinstance(loader, DataLoader) and loader.batch_size and isinstance(loader.sampler, Sized):
            rows = min(rows, len(loader.sampler))  # the last batch may be smaller
        return round(Fraction(int(self.tokens_per_step), self.config.batch_size) * rows)

    @property
    def seconds_waited(self) -> float:
        """The time that training has waited for batches so far."""
        return self.loader.waited if self.loader else 0.0

    def describe(self) -> str:
        """Return what an epoch is, in words."""
        tokens = "" if self.tokens_per_epoch is None else f", about {self.tokens_per_epoch:,} tokens an epoch"
        return f"rows of {type(self.module).__name__}{tokens}"

    def protocol(self) -> dict[str, Any]:
        """Return a description of how the held-out rows are read: losses compare only if it is the same."""
        windows = f"rows of {type(self.module).__name__}"
        return {"block_size": self.block_size, "stride": None, "windows": windows, "documents_read_alone": False}

    def setup(self, stage: str) -> None:
        self.module.trainer = self.trainer
        self._ready()
        if stage != "fit":
            self.module.setup(stage)

    def teardown(self, stage: str) -> None:
        self.module.teardown(stage)

    def train_dataloader(self) -> "_Batches":
        trainer: Any = self.trainer
        rank, world_size, first = trainer.global_rank, trainer.world_size, trainer.global_step
        micro, sizes = self.micro_batch_size, self.batch_sizes

        def batches() -> Iterator[Batch]:
            for x, y in itertools.islice(self._steps(self._train()), first, self.steps):
                step_targets, step_tokens = int((y != IGNORE).sum()), tokens_read(y)
                for i in range(rank * micro, len(x), world_size * micro):
                    yield Batch(x[i : i + micro], y[i : i + micro], step_targets, step_tokens)

        self.loader = _Batches(batches, (sizes.start(self.steps) - sizes.start(first)) // (micro * world_size))
        return self.loader

    def val_dataloader(self) -> "_Batches":
        trainer: Any = self.trainer
        micro, world_size = self.micro_batch_size, trainer.world_size
        mine, loader = slice(trainer.global_rank * micro, (trainer.global_rank + 1) * micro), self._loader("val")

        def batches() -> Iterator[Batch]:
            rows = self._seeded(loader, 0, 1)
            sizes = itertools.repeat(micro * world_size)  # all ranks have equally many batches of one shape
            for x, y in regrouped(rows, sizes):
                missing = (0, self.block_size - x.shape[1], 0, micro * world_size - len(x))
                yield Batch(F.pad(x, missing)[mine], F.pad(y, missing, value=IGNORE)[mine])

        return _Batches(batches)

    def largest_batch(self, size: int) -> Batch:
        """Return a batch of `size` rows of block_size ids each: there is none that takes more memory."""
        ids = torch.zeros(size, self.block_size, dtype=torch.int64)
        return Batch(ids, ids)

    def _train(self) -> Iterable[Any]:
        return self._loader("train")

    def _loader(self, part: str) -> Iterable[Any]:
        self._ready()
        name, theirs = f"{part}_dataloader", type(self.module)
        has = getattr(theirs, name) is not getattr(L.LightningDataModule, name)
        require(has, "data", theirs.__name__, f"has no {name}", "write one, of some rows")
        loader: Iterable[Any] = getattr(self.module, name)()
        shared = isinstance(getattr(loader, "sampler", None), DistributedSampler)
        why = f"its {name} is divided among ranks already"
        require(not shared, "data", theirs.__name__, why, "let it give all rows")
        return loader

    def _ready(self) -> None:
        """Let the module prepare its data, once; one process after another."""
        if self._is_ready:
            return
        lock = cache_dir() / "foreign" / f"{self.data_hash}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            self.module.prepare_data()
        self.module.setup("fit")
        self._is_ready = True

    def _steps(self, loader: Iterable[Any]) -> Iterator[Rows]:
        """Yield the rows of step 1, 2, ..., without end."""
        return regrouped(self._epochs(loader), map(self.batch_sizes.size, itertools.count()))

    def _epochs(self, loader: Iterable[Any]) -> Iterator[Rows]:
        return itertools.chain.from_iterable(self._seeded(loader, epoch) for epoch in itertools.count())

    def _seeded(self, loader: Iterable[Any], *position: int) -> Iterator[Rows]:
        """Yield the rows of a loader once, drawing from its own random generators.

        Raises UserError if there are none.
        """
        randomness, name = _Randomness(random_seed(self.seed, "order", *position)), type(self.module).__name__
        with randomness.used():
            batches = iter(loader)
        for number in itertools.count():
            with randomness.used():
                batch = next(batches, None)
            require(batch is not None or number > 0, "data", name, "a loader gives no batch", "give it some rows")
            if batch is None:
                return
            yield as_rows(batch, name, self.block_size, self.n_vocab)


def tokens_read(y: Tensor) -> int:
    """Count the ids that are read for targets y (N, T): those of each row up to its last target, behind which there is
    nothing to learn from."""
    counted = y != IGNORE
    return int((counted.flip(1).cumsum(1) > 0).sum())


class _Batches:
    """A re-iterable sequence of batches that measures the time spent waiting for them."""

    def __init__(self, batches: Callable[[], Iterator[Batch]], length: int | None = None) -> None:
        self.batches, self.length, self.waited = batches, length, 0.0

    def __iter__(self) -> Iterator[Batch]:
        return watched(self.batches(), self)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("its length is not known")
        return self.length


class _Randomness:
    """States of the global generators of torch, NumPy and Python that only one reader draws from."""

    def __init__(self, seed: int) -> None:
        outside = self._states()
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        self.states = self._states()
        self._set(outside)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let the code inside draw from these generators."""
        outside = self._states()
        self._set(self.states)
        try:
            yield
        finally:
            self.states = self._states()
            self._set(outside)

    @staticmethod
    def _states() -> Any:
        return torch.get_rng_state(), np.random.get_state(), random.getstate()

    @staticmethod
    def _set(states: Any) -> None:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
