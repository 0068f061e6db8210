"""Compute the reference's log-probabilities of all pairs before the first step, once."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from gptlab.tasks.reference import reference_log_probs
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.lightning_internals import autocast, datamodule_of, device_of, reduced
from gptlab.training.module import GPTModule


class Reference(Callback):
    """What the model that a run begins with makes of both answers of each pair.

    It is computed with the run's own precision, by all ranks together, and kept in checkpoints: a run that goes on, and
    evaluation, have the same numbers to the bit. `sha256` is that of the weights, None where a checkpoint has it.
    """

    def __init__(self, sha256: str | None, bar: ProgressBar) -> None:
        self.sha256, self.bar = sha256, bar

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compute them unless a checkpoint had them: its state is read before a run is opened."""
        assert isinstance(pl_module, GPTModule)
        data = datamodule_of(trainer)
        if data.reference is not None:
            return
        pl_module.gpt.eval()
        with self.bar.doing("reading the pairs with the reference"), autocast(trainer):
            for examples in (data.train, data.val):
                examples.reference = self._log_probs(trainer, pl_module, data, examples)
        pl_module.gpt.train()
        data.reference = self.sha256

    def _log_probs(self, trainer: L.Trainer, module: GPTModule, data: Any, examples: Any) -> torch.Tensor:
        batches = data.batches_of(examples, trainer.global_rank, trainer.world_size)
        found = reference_log_probs(module.loss.figures, examples, batches, device_of(trainer))
        return reduced(trainer, found.to(device_of(trainer)), "sum").cpu()
