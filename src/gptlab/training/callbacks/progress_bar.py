"""Show one bar for the whole run, and a line for every validation."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptlab.metrics import metric, metrics


class ProgressBar(Callback):
    """One bar for the whole run, and a line for every validation (lines alone if there is no terminal)."""

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
            refresh_per_second=4,  # drawing takes milliseconds, as long as a step of a small model
        )
        self.task = self.bar.add_task("", total=None, loss="-", speed="-")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.bar.update(self.task, total=trainer.max_steps)
        self.bar.start()

    def step(self, step: int) -> None:
        """Advance the bar by a step."""
        self.bar.update(self.task, completed=step)

    def logged(self, values: Mapping[str, float]) -> None:
        """Show the training metrics that were just logged."""
        loss, speed = (metric(name).text(values[name]) for name in ("train/loss", "train/tokens_per_second"))
        self.bar.update(self.task, loss=loss, speed=speed)

    def validated(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Print the line of a validation."""
        parts = [f"step {step:>{len(str(steps))}}/{steps}"]
        if "train/loss" in values:
            parts.append(f"train loss {metric('train/loss').text(values['train/loss'])}")
        for row in metrics():
            if "line" in row.shown and row.name in values:
                text = row.text(values[row.name])
                parts.append(f"{text} {row.head}" if "/" in row.head else f"{row.head} {text}")
        self.console.print(" · ".join(parts), highlight=False)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.bar.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.bar.stop()
