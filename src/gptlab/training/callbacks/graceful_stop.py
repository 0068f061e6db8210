"""Ending a run early so that it can go on: signals, a time limit, and Slurm's warning."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from gptlab.distributed.ranks import Ranks
from gptlab.training.callbacks.checkpointing import Checkpoints


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and has saved its checkpoint."""


class GracefulStop(Callback):
    """Ctrl-C, SIGTERM, SIGUSR1 (Slurm's warning of its time limit) and `max_minutes` save and end a run after its step,
    on all ranks at once.

    An exception wherever the signal arrives would leave TensorBoard's queue locked. One rank alone ends at once at a
    second Ctrl-C (Checkpoints keeps what it learned).
    """

    def __init__(self, checkpoints: Checkpoints, ranks: Ranks, max_minutes: float | None) -> None:
        self.checkpoints, self.ranks = checkpoints, ranks
        self.ends = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.why: str | None = None
        self._alone = True
        self._handlers: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def warned(self) -> Iterator[None]:
        """Slurm's warning counts from before Lightning sets training up until after it has given the signal back."""
        before = signal.signal(signal.SIGUSR1, self._ask)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # maybe by the warning of another rank: this one's may come late
            before = signal.SIG_IGN
            raise
        finally:
            signal.signal(signal.SIGUSR1, before)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Only now: Lightning takes some of these signals when training begins."""
        own = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
        self._alone = trainer.world_size == 1
        self._handlers = {number: signal.signal(number, self._ask) for number in own}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step < trainer.max_steps:
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn == "fit":
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._give_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._alone and name == self.why == "SIGINT":
            raise KeyboardInterrupt
        self.why = name

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if self.why is None and self.ends is not None and time.monotonic() >= self.ends:
            self.why = "trainer.max_minutes"
        if self.ranks.any(self.why is not None):
            self.checkpoints.save(trainer)
            raise Stopped

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def requeue() -> None:
    """Let Slurm start this job again, if it is one."""
    if job := os.environ.get("SLURM_JOB_ID"):
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
        subprocess.run(["scontrol", "requeue", job], check=False)
