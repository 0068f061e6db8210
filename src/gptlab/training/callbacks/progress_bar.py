"""Show one bar for the whole run, and a line for every validation."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptlab.training.module import GPTModule


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
