"""Ask the reference before the first step, once: the log-probabilities of all pairs, and answers of its own."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from gptlab.data.batches.answers import AnswerBatch
from gptlab.data.batches.build import Data
from gptlab.data.batches.examples import ExampleSet
from gptlab.tasks.divergence import draw_answers
from gptlab.tasks.reference import reference_log_probs
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.lightning_internals import autocast, datamodule_of, device_of, from_rank_0, reduced
from gptlab.training.module import GPTModule


class Reference(Callback):
    """The model that a run begins with: its log-probabilities of the answers of pairs, and its own to held-out prompts.

    It is asked with the run's own precision, by all ranks together, and what it says is kept in checkpoints: a run that
    goes on, and evaluation, have the same numbers to the bit. `sha256` is that of its weights, None where a checkpoint
    has it.
    """

    def __init__(self, data: Data, seed: int, sha256: str | None, bar: ProgressBar) -> None:
        self.data, self.seed, self.sha256, self.bar = data, seed, sha256, bar

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
            data.val_parts["reference"].examples.drawn = from_rank_0(trainer, self._answers(pl_module))
        pl_module.gpt.train()
        data.reference = self.sha256

    def _answers(self, module: GPTModule) -> AnswerBatch:
        assert isinstance(self.data.source, ExampleSet)
        prompts = [record["prompt"] for record in self.data.source.val]
        figures = module.part_losses[1].figures  # of `reference`, the first part
        template = self.data.task.chat_template(self.data.tokenizer)
        return draw_answers(module.gpt, figures, prompts, template, self.seed)

    def _log_probs(self, trainer: L.Trainer, module: GPTModule, data: Any, examples: Any) -> torch.Tensor:
        batches = data.batches_of(examples, trainer.global_rank, trainer.world_size)
        found = reference_log_probs(module.loss.figures, examples, batches, device_of(trainer))
        return reduced(trainer, found.to(device_of(trainer)), "sum").cpu()
