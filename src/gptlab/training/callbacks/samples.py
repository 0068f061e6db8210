"""Draw the task's samples at every validation and keep them."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from gptlab.decoding.decoders import Decoder
from gptlab.runs.samples import Sample, read_samples, write_markdown
from gptlab.tasks.base import Task
from gptlab.tokenizers import Tokenizer
from gptlab.training.lightning_internals import is_sharded


class Samples:
    """Let the task show what the model has learned for the same prompts: into samples.jsonl, which is read back,
    samples.md for people, and TensorBoard's text tab."""

    def __init__(
        self, run_dir: Path, task: Task, prompts: Sequence[str], tokenizer: Tokenizer, decoder: Decoder, seed: int
    ) -> None:
        self.run_dir, self.task, self.prompts = run_dir, task, list(prompts)
        self.tokenizer, self.decoder, self.seed = tokenizer, decoder, seed

    def draw(self, trainer: L.Trainer, gpt: Any) -> None:
        """Draw one text for each prompt by the weights that the model has now."""
        together = is_sharded(trainer)  # a sharded model is run by all ranks
        if not (trainer.is_global_zero or together) or not self.prompts:
            return
        was_training = gpt.training
        gpt.eval()
        texts = self.task.samples(gpt, self.tokenizer, self.prompts, self.decoder, self.seed)
        gpt.train(was_training)
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        found = [Sample(step, prompt, text) for prompt, text in zip(self.prompts, texts, strict=True)]
        append(self.run_dir, found)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for i, sample in enumerate(found):
                    logger.experiment.add_text(f"samples/{i}", sample.markdown, step)


def append(run_dir: Path, samples: Iterable[Sample]) -> None:
    """Add samples to both files."""
    samples = list(samples)
    with (run_dir / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(sample._asdict()) + "\n" for sample in samples)
    with (run_dir / "samples.md").open("a", encoding="utf-8") as file:
        write_markdown(file, samples)


def keep_until(before: Path, now: Path, step: int = sys.maxsize) -> None:
    """Let run directory `now` have the samples of `before` up to a step: later ones will come again."""
    kept = [sample for sample in read_samples(before) if sample.step <= step]
    for name in ("samples.jsonl", "samples.md"):
        (now / name).unlink(missing_ok=True)
    if kept:
        append(now, kept)
