"""Serve the batches of a corpus to every rank."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import lightning as L
from torch.utils.data import DataLoader

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches.batch import Batch
from gptlab.data.batches.order import BLOCK, Order
from gptlab.data.batches.repack import Repacked
from gptlab.data.batches.sampler import EvalBatches, MicroBatch, TrainBatches
from gptlab.data.batches.windows import TrainWindows, Windows, dense, held_out, packed, protocol
from gptlab.data.config import BatchConfig
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import Corpus
from gptlab.data.tokens.shards import TokenStream
from gptlab.errors import require

T = TypeVar("T")


class DataModule(Protocol):
    """The interface of a data module, as training uses it."""

    steps: int  # set before a loader is asked for: optimizer steps of the whole run,
    micro_batch_size: int  # sequences of a forward pass of one device,
    batch_sizes: BatchSizes  # and those of each step
    block_size: int
    data_hash: str  # tells these data from others
    separator: int | None  # the id that no position attends beyond, if documents are read alone

    @property
    def config(self) -> BatchConfig: ...

    @property
    def tokens_per_step(self) -> float:
        """The mean number of tokens that a step of `config.batch_size` sequences reads, without padding.

        An integer where it is one.
        """

    @property
    def tokens_per_epoch(self) -> int | None:
        """The number of tokens of an epoch, where there is such a number."""

    @property
    def seconds_waited(self) -> float:
        """The time that training has waited for batches so far."""

    def train_dataloader(self) -> Iterable[Batch]:
        """Return the micro-batches of this rank, from the trainer's current step to `steps`."""

    def val_dataloader(self) -> Iterable[Batch]:
        """Return this rank's share of the held-out batches, equally many on every rank."""

    def largest_batch(self, size: int) -> Any:
        """Return a batch of `size` sequences that takes as much memory as any of that size."""

    def describe(self) -> str:
        """Return a description of an epoch in words."""

    def protocol(self) -> dict[str, Any]:
        """Return a description of how held-out text is read: losses compare only if it is the same."""


class KnownData(L.LightningDataModule):
    """A record of a run's data in its checkpoints; other data are refused when the run is resumed.

    All steps have `config.batch_size` sequences, unless other `batch_sizes` are set before a loader is asked for.
    """

    def __init__(self, data_hash: str, config: BatchConfig) -> None:
        super().__init__()
        self.data_hash, self.other_data_ok = data_hash, config.other_data_ok
        self.batch_sizes = BatchSizes(config.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return the hash of the data, for a checkpoint."""
        return {"data_hash": self.data_hash}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume from a checkpoint that was trained on other data, unless other_data_ok.

        Raises UserError.
        """
        before = state_dict["data_hash"]
        why = f"the checkpoint was trained on other data ({before[:12]}..., this is {self.data_hash[:12]}...)"
        todo = "give the same data, or data.other_data_ok=true"
        require(before == self.data_hash or self.other_data_ok, "data", self.data_hash[:12], why, todo)


class TextDataModule(KnownData):
    """The batches of one run: `steps` optimizer steps, each of as many windows as `batch_sizes` has, and the held-out
    split.

    The whole run is one pass of the training loader; its order goes through as many epochs of the text as it takes. Set
    `steps` and `micro_batch_size` before asking for a loader.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, block_size: int, seed: int) -> None:
        super().__init__(corpus.manifest["sha256"], config)
        self.config, self.seed, self.block_size = config, seed, block_size
        self.steps, self.micro_batch_size = 0, 1
        self.weights = corpus.weights
        self.separator = corpus.tokenizer.eot if config.mask_documents else None
        stride = config.stride or block_size
        why = f"skips tokens between windows of {block_size}"
        require(stride <= block_size, "data.stride", stride, why, "give at most model.block_size")
        eot, by_documents = corpus.tokenizer.eot, config.packing == "documents"
        cut: Callable[[TokenStream], Windows] = functools.partial(dense, block_size=block_size, stride=config.stride)
        if by_documents:
            cut = functools.partial(packed, block_size=block_size, eot=eot)
        self.train = [
            Repacked(stream, eot, cut, seed, number) if config.repack else cut(stream)
            for number, stream in enumerate(corpus.train)
        ]
        self.val = held_out(corpus.val, block_size, eot, by_documents)
        parts = corpus.val_parts if getattr(config, "by_part", False) else {}
        self.val_parts = {name: held_out(val, block_size, eot, by_documents) for name, (val, _) in parts.items()}
        self.val_bytes = {name: n_bytes for name, (_, n_bytes) in parts.items()}
        of_parts = [val for val, _ in parts.values()]
        for name, streams in {"training": corpus.train, "held-out": [corpus.val, *of_parts]}.items():
            for stream in streams:
                why = f"the {name} split has {len(stream)} tokens, less than one window"
                todo = "lower it, give more text, or change data.val_fraction"
                require(len(stream) > block_size, "model.block_size", block_size, why, todo)
        for name, split in {"training": self.train, "held-out": [self.val]}.items():
            targets = sum(int(windows.targets.sum()) for windows in split if windows.masked)
            why = f"no token of the {name} split counts in the loss"
            ok = targets > 0 or not all(windows.masked for windows in split)
            require(ok, "data", type(config).__name__.lower(), why, "leave some of the text unmasked")
        period = config.repeat_steps and config.repeat_steps * config.batch_size
        several = any(windows.documents > 1 for windows in self.train if isinstance(windows, Repacked))
        why, todo = "there is one document, whose order cannot change", "leave it out"
        require(several or not config.repack, "data.repack", "true", why, todo)
        bounds = [windows.bounds if isinstance(windows, Repacked) else None for windows in self.train]
        self.order = Order([len(windows) for windows in self.train], self.weights, seed, period, bounds)
        self.loader: WatchedLoader | None = None

    @property
    def tokens_per_epoch(self) -> int:
        """The number of tokens that are read of all training windows; padding is none."""
        return sum(int(windows.lengths.sum()) for windows in self.train)

    @property
    def tokens_per_step(self) -> float:
        """The number of tokens of `config.batch_size` windows, on average in proportion to their sources.

        An integer where it is one: batch_size * block_size where each window is full.
        """
        shares = [Fraction(int(share), BLOCK) for share in self.order.shares]
        means = [Fraction(int(windows.lengths.sum()), len(windows)) for windows in self.train]
        found = self.config.batch_size * sum((s * mean for s, mean in zip(shares, means, strict=True)), Fraction(0))
        return int(found) if found.denominator == 1 else float(found)

    def windows_of(self, step: int) -> list[tuple[int, int]]:
        """Return the (source, window) pairs of a step (1, 2, ...), over all ranks."""
        return self.order.at(range(self.batch_sizes.start(step - 1), self.batch_sizes.start(step)))

    def rows(self, windows: Sequence[tuple[int, int]]) -> Batch:
        """Return (source, window) pairs as a batch, (N, T) each."""
        return TrainWindows(self.train).rows(windows)

    def largest_batch(self, size: int) -> Any:
        """Return the first windows of the first step as a batch: all batches of a size are alike."""
        windows: Any = self.examples(TrainWindows(self.train))
        return windows.__getitems__(MicroBatch(self.order.at(range(size))))

    @property
    def seconds_waited(self) -> float:
        """The time that training has waited for batches so far."""
        return self.loader.waited if self.loader else 0.0

    def describe(self) -> str:
        """Return how many windows an epoch has, and how many tokens are in no window."""
        each = " + ".join(f"{len(windows):,}" for windows in self.train)
        dropped = sum(windows.dropped for windows in self.train)
        found = f"{each} of {self.block_size:,} tokens an epoch"
        found += ", from documents in a new order each epoch" if self.config.repack else ""
        if self.config.packing == "documents":
            return found + f", packed by documents, {min(windows.fill for windows in self.train):.1%} full"
        found += f", one every {self.config.stride} tokens" if self.config.stride else ""
        return found + (f"; {dropped:,} tokens at the end are dropped" if dropped else "")

    def protocol(self) -> dict[str, Any]:
        """Return a description of how the held-out text is read."""
        return protocol(self.block_size, self.config.packing == "documents", self.config.mask_documents)

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        ranks = trainer.global_rank, trainer.world_size
        first = trainer.global_step  # of a run that is resumed
        windows, sizes = TrainWindows(self.train), self.batch_sizes
        batches = TrainBatches(self.order, self.steps, sizes, self.micro_batch_size, *ranks, first, counts=windows)
        self.loader = self._loader(windows, batches)
        return self.loader

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return the held-out batches; several loaders where the parts of a mixture are scored by themselves, too."""
        loaders = [self._held_out(windows) for windows in (self.val, *self.val_parts.values())]
        return loaders if len(loaders) > 1 else loaders[0]

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._held_out(self.val)

    def _held_out(self, windows: Windows) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        ranks = trainer.global_rank, trainer.world_size
        size = min(self.micro_batch_size, -(-len(windows) // trainer.world_size))
        return self._loader(windows, EvalBatches(len(windows), size, *ranks))

    def examples(self, windows: Any) -> Any:
        """Return windows, of training or held out, as the examples of a task; one with batches of its own wraps them.

        What it returns gives a batch for what it is asked for by `__getitems__`, as the windows do.
        """
        return windows

    def _loader(self, windows: Any, batches: Any) -> "WatchedLoader":
        return loader_of(self.examples(windows), batches, self.config.num_workers, self.trainer)


class WatchedLoader(DataLoader[Batch]):
    """A loader that measures the time spent waiting for its batches."""

    waited = 0.0  # seconds

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return watched(super().__iter__(), self)


def loader_of(examples: Any, batches: Any, num_workers: int, trainer: Any) -> WatchedLoader:
    """Return the loader of whole batches: for each item of `batches` it gives `examples.__getitems__(item)`."""
    return WatchedLoader(
        examples,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=bool(trainer and trainer.strategy.root_device.type == "cuda"),
    )


def watched(batches: Iterator[T], loader: Any) -> Iterator[T]:
    """Add the time spent waiting for each batch to `loader.waited`, in seconds."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        loader.waited += time.perf_counter() - start
        if batch is None:
            return
        yield batch


def _as_is(batch: Any) -> Batch:
    return batch  # the windows come as a batch already
