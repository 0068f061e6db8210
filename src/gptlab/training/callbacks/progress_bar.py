"""Show one bar for the whole run, and a line for every validation."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from gptlab.metrics import metric, metrics
from gptlab.training.remaining_time import RemainingTime


class ProgressBar(Callback):
    """One bar for the whole run, which says what is being done, and a line for every validation.

    Where there is no terminal there are the lines alone, with the time that is left. `deadline` is the time of the
    monotonic clock at which the run stops in any case.
    """

    def __init__(
        self, console: Console, enabled: bool, remaining: RemainingTime, deadline: float | None = None
    ) -> None:
        self.console, self.remaining, self.deadline = console, remaining, deadline
        self.is_drawn = enabled and console.is_terminal
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not self.is_drawn,
            transient=True,
            refresh_per_second=4,  # drawing takes milliseconds, as long as a step of a small model
        )
        self.task = self.bar.add_task("starting", total=None, figures="")
        self._step, self._figures = "step 0", ""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar, from before the first step until the run ends in any way."""
        self.bar.start()
        try:
            yield
        finally:
            self.bar.stop()

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what is done besides steps."""
        before = self.bar.tasks[0].description
        self.bar.update(self.task, description=what)
        try:
            yield
        finally:
            self.bar.update(self.task, description=before)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.remaining.steps = trainer.max_steps
        self.bar.update(self.task, total=trainer.max_steps, completed=trainer.global_step)
        self._describe(trainer.global_step)

    def step(self, step: int, seconds: float) -> None:
        """Advance the bar to a step, whose end is after so many seconds of training."""
        self.remaining.stepped(step, seconds)
        if self.is_drawn:
            self.bar.update(self.task, completed=step)
            self._describe(step)

    def logged(self, values: Mapping[str, float]) -> None:
        """Show the training metrics that were just logged."""
        loss, speed = (metric(name).text(values[name]) for name in ("train/loss", "train/tokens_per_second"))
        self._figures = f"loss {loss} · {speed} tokens/s"

    def validated(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Print the line of a validation that is done."""
        parts = [f"step {step:>{len(str(steps))}}/{steps}"]
        if "train/loss" in values:
            parts.append(f"train loss {metric('train/loss').text(values['train/loss'])}")
        for row in metrics():
            if "line" in row.shown and row.name in values:
                text = row.text(values[row.name])
                parts.append(f"{text} {row.head}" if "/" in row.head else f"{row.head} {text}")
        if not self.is_drawn and step < steps and (left := self.remaining.text(self.deadline)):
            parts.append(left)
        self.console.print(" · ".join(parts), highlight=False, soft_wrap=True)
        if self.is_drawn:
            self._describe(step)

    def _describe(self, step: int) -> None:
        figures = [each for each in (self._figures, self.remaining.text(self.deadline)) if each]
        self.bar.update(self.task, description=f"step {step}/{self.remaining.steps}", figures=" · ".join(figures))
