"""The LightningDataModule: a corpus as batches (x, y), (B, T) each, for whichever rank asks."""

from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from gptlab.data.shards import Corpus
from gptlab.data.windows import Batch, EvalBatches, Order, TrainBatches, WholeWindows, Windows
from gptlab.errors import require


class TextDataModule(L.LightningDataModule):
    """One run's batches: `steps` optimizer steps of `batch_size` windows, and the whole held-out split.

    The whole run is one pass of the training loader; its order goes through as many epochs of the text as it takes.
    """

    def __init__(
        self,
        corpus: Corpus,
        block_size: int,
        steps: int,
        batch_size: int,
        micro_batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.train = Windows(corpus.tokens("train"), block_size)
        self.val = WholeWindows(corpus.tokens("val"), block_size)
        self.steps, self.batch_size, self.micro_batch_size = steps, batch_size, micro_batch_size
        self.num_workers, self.seed = num_workers, seed
        for part in ("train", "val"):
            tokens = corpus.manifest[part]["tokens"]
            name = {"train": "training", "val": "held-out"}[part]
            require(
                tokens > block_size,
                "model.block_size",
                block_size,
                f"the {name} split has {tokens} tokens, less than one window",
                "lower it, give more text, or change data.val_fraction",
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        order = Order(len(self.train), self.seed)
        batches = TrainBatches(
            order, self.steps, self.batch_size, self.micro_batch_size, trainer.global_rank, trainer.world_size
        )
        return self._loader(self.train, batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        trainer: Any = self.trainer
        batches = EvalBatches(len(self.val), self.micro_batch_size, trainer.global_rank, trainer.world_size)
        return self._loader(self.val, batches)

    def _loader(self, windows: Windows, batches: TrainBatches | EvalBatches) -> DataLoader[Batch]:
        return DataLoader(
            windows,
            batch_sampler=batches,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=bool(self.trainer and self.trainer.strategy.root_device.type == "cuda"),
        )


def _as_is(batch: Any) -> Batch:
    return batch  # the windows come as a batch already
