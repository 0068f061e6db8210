"""Draw the task's samples at every validation and keep them."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from gptlab.decoding.decoders import Decoder
from gptlab.files import sync_files, write_atomically
from gptlab.runs.samples import Sample, read_samples, write_markdown
from gptlab.tasks.base import Task
from gptlab.tokenizers import Tokenizer
from gptlab.training.lightning_internals import is_sharded

FILES = ("samples.jsonl", "samples.md")


class Samples:
    """The task's samples for the same prompts at every validation.

    They go into samples.jsonl, which is read back, samples.md for people, and TensorBoard's text tab.
    """

    def __init__(
        self, run_dir: Path, task: Task, prompts: Sequence[str], tokenizer: Tokenizer, decoder: Decoder, seed: int
    ) -> None:
        self.run_dir, self.task, self.prompts = run_dir, task, list(prompts)
        self.tokenizer, self.decoder, self.seed = tokenizer, decoder, seed

    def draw(self, trainer: L.Trainer, gpt: Any) -> None:
        """Draw one text for each prompt with the model's current weights."""
        together = is_sharded(trainer)  # all ranks must run a sharded model
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

    def sync(self) -> None:
        """Wait until all samples are on disk."""
        sync_files(*(self.run_dir / name for name in FILES))


def append(run_dir: Path, samples: Sequence[Sample]) -> None:
    """Append samples to both files, in which a kill may leave a part of them."""
    for name, text in zip(FILES, _texts(samples), strict=True):
        with (run_dir / name).open("a", encoding="utf-8", newline="") as file:
            file.write(text)


def keep_until(before: Path, now: Path, step: int = sys.maxsize) -> None:
    """Copy the samples of run directory `before` up to a step into `now`: later ones will be drawn again.

    A last line without an end is half written, and left out.
    """
    kept = [sample for sample in read_samples(before) if sample.step <= step]
    for name, text in zip(FILES, _texts(kept), strict=True):
        if text:
            write_atomically(now / name, text.encode())
        else:
            (now / name).unlink(missing_ok=True)


def _texts(samples: Sequence[Sample]) -> tuple[str, str]:
    """Return the samples in each of FILES."""
    markdown = io.StringIO()
    write_markdown(markdown, samples)
    return "".join(json.dumps(sample._asdict()) + "\n" for sample in samples), markdown.getvalue()
