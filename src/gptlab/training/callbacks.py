"""What watches a run: speed, samples, the progress bar."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptlab.decoding.decoders import Decoder
from gptlab.decoding.generate import Limits, continue_ids
from gptlab.errors import UserError
from gptlab.tokenizers import Tokenizer
from gptlab.training.module import GPTModule
from gptlab.training.pace import wait_for_device


class Speed(Callback):
    """Training tokens per second of training time: validation, samples and checkpoints of others do not count; model
    FLOPs utilization (Chowdhery et al. 2022); and the share of that time in which the loop waited for data. With them
    the module logs what else it knows of training."""

    def __init__(self, tokens_per_step: int, waited: Callable[[], float] = lambda: 0.0) -> None:
        self.tokens_per_step, self.waited = tokens_per_step, waited  # waited: seconds for data so far
        self.share_per_token = 0.0  # of the FLOPs that all devices could do in a second
        self.seconds = 0.0  # in training so far
        self.steps = 0
        self._since = (0.0, 0, 0.0)  # (seconds, steps, seconds waited) at the last log
        self._resumed = 0.0
        self._began, self._earlier = time.perf_counter(), 0.0  # this start of the run; seconds of the ones before

    @property
    def tokens_per_second(self) -> float:
        return self.steps * self.tokens_per_step / self.seconds if self.seconds else 0.0

    @property
    def all_seconds(self) -> float:
        """Of the whole run, whatever they went into; without what came after the checkpoint from which it goes on."""
        return self._earlier + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "steps": self.steps, "all_seconds": self.all_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.steps = state_dict["seconds"], state_dict["steps"]
        self._earlier = state_dict.get("all_seconds", self.seconds)  # older checkpoints have none
        self._since = (self.seconds, self.steps, self.waited())

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._began = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GPTModule)
        logs = pl_module.logs_after(batch_idx)
        if logs:
            wait_for_device(pl_module.device)
        now = time.perf_counter()
        self.seconds += now - self._resumed
        self._resumed, self.steps = now, trainer.global_step
        if logs:
            seconds, steps, waited = self._since
            tokens, passed = (self.steps - steps) * self.tokens_per_step, self.seconds - seconds
            speed = tokens / passed
            figures = {"train/tokens_per_second": speed, "train/mfu": speed * self.share_per_token}
            pl_module.log_training(figures | {"train/data_wait": (self.waited() - waited) / passed})
            self._since = (self.seconds, self.steps, self.waited())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed = time.perf_counter()


class Samples(Callback):
    """Continue the same prompts at every validation, into samples.md and TensorBoard's text tab."""

    def __init__(
        self, run_dir: Path, prompts: Sequence[str], tokenizer: Tokenizer, decoder: Decoder, seed: int
    ) -> None:
        self.path, self.prompts, self.seed = run_dir / "samples.md", prompts, seed
        self.tokenizer, self.decoder = tokenizer, decoder

    def continue_(self, gpt: Any, decoder: Decoder, number: int, max_new_tokens: int = 64) -> str:
        """What the model makes of prompt `number`."""
        ids, tokenizer = self.tokenizer.encode(self.prompts[number]), self.tokenizer
        limits = Limits(max_new_tokens, gpt.config.block_size, tokenizer.eot, tokenizer.n_vocab)
        try:
            return tokenizer.decode(continue_ids(gpt, ids, decoder, limits, (self.seed, number, 0)))
        except UserError as error:  # a model that has diverged does not stop its run
            return f" ({error.why})"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        together = isinstance(trainer.strategy, ModelParallelStrategy)  # a sharded model is run by all ranks
        if not (trainer.is_global_zero or together) or not self.prompts:
            return
        assert isinstance(pl_module, GPTModule)
        step = trainer.global_step
        texts = [self.continue_(pl_module.gpt, self.decoder, i) for i in range(len(self.prompts))]
        if not trainer.is_global_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"## step {step}\n\n")
            for prompt, text in zip(self.prompts, texts, strict=True):
                file.write(f"{_as_code(prompt + text)}\n\n")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for i, (prompt, text) in enumerate(zip(self.prompts, texts, strict=True)):
                    logger.experiment.add_text(f"samples/{i}", _as_code(prompt + text), step)


class ProgressBar(Callback):
    """One bar for the whole run, and a line for every validation (alone where nobody watches a terminal)."""

    def __init__(self, console: Console, enabled: bool) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]} · {task.fields[speed]} tokens/s ·"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not (enabled and console.is_terminal),
            transient=True,
            refresh_per_second=4,  # drawing takes milliseconds, which are those of a small model's step
        )
        self.task = self.bar.add_task("", total=None, loss="-", speed="-")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.update(self.task, total=trainer.max_steps)
        self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GPTModule)
        self.bar.update(self.task, completed=trainer.global_step)
        if pl_module.logs_after(batch_idx):
            shown = trainer.callback_metrics
            speed = f"{shown['train/tokens_per_second']:,.0f}"
            self.bar.update(self.task, loss=f"{shown['train/loss']:.3f}", speed=speed)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        shown = trainer.callback_metrics
        train = f"train loss {shown['train/loss']:.3f} · " if "train/loss" in shown else ""
        self.console.print(
            f"step {trainer.global_step:>{len(str(trainer.max_steps))}}/{trainer.max_steps} · {train}"
            f"val loss {shown['val/loss']:.3f} · {shown['val/bits_per_byte']:.3f} bits/byte",
            highlight=False,
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.bar.stop()


def _as_code(text: str) -> str:
    """Markdown that shows any text as it is, line by line."""
    return "\n".join("    " + line for line in text.splitlines())
