"""The LightningDataModule: a corpus as batches (x, y), (B, T) each, for whichever rank asks."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from gptlab.data.batches.order import Order
from gptlab.data.batches.windows import Batch, EvalBatches, TrainBatches, TrainWindows, dense, held_out, packed
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import Corpus
from gptlab.errors import require


class TextDataModule(L.LightningDataModule):
    """One run's batches: `steps` optimizer steps of `config.batch_size` windows, and the whole held-out split.

    The whole run is one pass of the training loader; its order goes through as many epochs of the text as it takes.
    Tell `steps` and `micro_batch_size` before a loader is asked for.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, block_size: int, seed: int) -> None:
        super().__init__()
        self.config, self.seed, self.block_size = config, seed, block_size
        self.steps, self.micro_batch_size = 0, 1
        self.weights = corpus.weights
        self.data_hash: str = corpus.manifest["sha256"]
        stride = config.stride or block_size
        why = f"skips tokens between windows of {block_size}"
        require(stride <= block_size, "data.stride", stride, why, "give at most model.block_size")
        eot, by_documents = corpus.tokenizer.eot, config.packing == "documents"
        self.train = [
            packed(stream, block_size, eot) if by_documents else dense(stream, block_size, config.stride)
            for stream in corpus.train
        ]
        self.val = held_out(corpus.val, block_size, eot, by_documents)
        for name, streams in {"training": corpus.train, "held-out": [corpus.val]}.items():
            for stream in streams:
                why = f"the {name} split has {len(stream)} tokens, less than one window"
                todo = "lower it, give more text, or change data.val_fraction"
                require(len(stream) > block_size, "model.block_size", block_size, why, todo)
        period = config.repeat_steps and config.repeat_steps * config.batch_size
        self.order = Order([len(windows) for windows in self.train], self.weights, seed, period)
        self.loader: WatchedLoader | None = None

    @property
    def tokens_per_epoch(self) -> int:
        """Of all training windows."""
        return sum(len(windows) for windows in self.train) * self.block_size

    def windows_of(self, step: int) -> list[tuple[int, int]]:
        """(source, window) of everything in step 1, 2, ..., over all ranks."""
        size = self.config.batch_size
        return self.order.at(range((step - 1) * size, step * size))

    def rows(self, windows: Sequence[tuple[int, int]]) -> Batch:
        """(x, y), (N, T) each."""
        return TrainWindows(self.train).__getitems__(windows)

    def targets_of(self, step: int) -> float:
        """How many targets a micro-batch of this step has, in the mean over its micro-batches and ranks."""
        if self.config.packing != "documents":
            return self.micro_batch_size * self.block_size
        targets = sum(self.train[source].targets(window) for source, window in self.windows_of(step))
        return targets * self.micro_batch_size / self.config.batch_size

    @property
    def seconds_waited(self) -> float:
        """How long training has waited for batches so far."""
        return self.loader.waited if self.loader else 0.0

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        ranks = trainer.global_rank, trainer.world_size
        first = trainer.global_step  # of a run that is resumed
        batches = TrainBatches(self.order, self.steps, self.config.batch_size, self.micro_batch_size, *ranks, first)
        self.loader = self._loader(TrainWindows(self.train), batches)
        return self.loader

    def val_dataloader(self) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        ranks = trainer.global_rank, trainer.world_size
        size = min(self.micro_batch_size, -(-len(self.val) // trainer.world_size))
        return self._loader(self.val, EvalBatches(len(self.val), size, *ranks))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data."""
        return {"data_hash": self.data_hash}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with a checkpoint that was trained on another text, unless that is asked for."""
        before = state_dict["data_hash"]
        why = f"the checkpoint was trained on other data ({before[:12]}..., this is {self.data_hash[:12]}...)"
        todo = "give the same data, or data.other_data_ok=true"
        require(before == self.data_hash or self.config.other_data_ok, "data", self.data_hash[:12], why, todo)

    def _loader(self, windows: Any, batches: TrainBatches | EvalBatches) -> "WatchedLoader":
        return WatchedLoader(
            windows,
            batch_sampler=batches,
            collate_fn=_as_is,
            num_workers=self.config.num_workers,
            persistent_workers=self.config.num_workers > 0,
            pin_memory=bool(self.trainer and self.trainer.strategy.root_device.type == "cuda"),
        )


class WatchedLoader(DataLoader[Batch]):
    """Knows how long its batches were waited for."""

    waited = 0.0  # seconds

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def _as_is(batch: Any) -> Batch:
    return batch  # the windows come as a batch already
