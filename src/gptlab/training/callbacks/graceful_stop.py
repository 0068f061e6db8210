"""End a run early so that it can be resumed: by signals, a time limit, and Slurm's warning."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from gptlab.distributed.ranks import Ranks
from gptlab.errors import Stopped
from gptlab.training.lightning_internals import early_rank

TIME_LIMIT = "trainer.max_minutes"


class GracefulStop(Callback):
    """A request to stop, by Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 (Slurm's warning of its time limit) or `max_minutes`.

    It takes effect at the end of a step, on all ranks at once, and only there. An exception wherever the signal arrives
    would leave TensorBoard's queue locked. One rank alone ends at once at a second Ctrl-C.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

    def __init__(self, ranks: Ranks, max_minutes: float | None) -> None:
        self.ranks = ranks
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.why: str | None = None  # the signal's name, or trainer.max_minutes
        self._alone = True
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def signal_number(self) -> int | None:
        """The signal that asked for the stop; None if it was not a signal."""
        return int(signal.Signals[self.why]) if self.why and self.why in signal.Signals.__members__ else None

    @contextlib.contextmanager
    def heed_signals(self) -> Iterator[None]:
        """Handle signals from before Lightning sets training up until its end; restore the old handlers then.

        Ctrl-C ends a run at once until its first step begins: there is nothing to save.
        """
        try:
            self._take(*self.SIGNALS)
            yield
        except (KeyboardInterrupt, SystemExit):  # another rank may have had the warning earlier than this one
            if signal.SIGUSR1 in self._handlers:
                self._handlers[signal.SIGUSR1] = signal.SIG_IGN
            raise
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers.clear()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._alone = trainer.world_size == 1
        self._take(signal.SIGINT)

    def asked(self) -> bool:
        """Return whether any rank was asked to stop, and tell all ranks why; all must call this at the same point."""
        if self.why is None and self.deadline is not None and time.monotonic() >= self.deadline:
            self.why = TIME_LIMIT
        number = self.ranks.max(0.0 if self.why is None else self.signal_number or 0.5)
        if number:
            self.why = TIME_LIMIT if number == 0.5 else signal.Signals(int(number)).name
        return bool(number)

    def _take(self, *signals: signal.Signals) -> None:
        for number in _heeded(signals):
            self._handlers[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._alone and name == self.why == "SIGINT":
            raise KeyboardInterrupt
        self.why = name


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals that stop a run end this process while there is nothing to save yet.

    What is being written is taken away, and what the cache has already stays: preparing the text goes on there. So
    SIGUSR1 puts a Slurm job back into the queue here, too. Raises Stopped, in the main thread.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    earlier = {number: signal.signal(number, end) for number in _heeded(GracefulStop.SIGNALS)}
    try:
        yield
    except Stopped as stop:
        for number in earlier:  # a second one would end what is being cleaned up
            signal.signal(number, signal.SIG_IGN)
        if early_rank() == 0:
            line = "stopped before training began: the same command goes on with what is prepared"
            print(line, file=sys.stderr)
            if stop.signal_number == signal.SIGUSR1:
                requeue()
        raise
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _heeded(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return those of some signals that this thread may handle: only the main one may, and nohup ignores SIGHUP."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in signals if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def requeue() -> None:
    """Ask Slurm to start this job again, if it is a Slurm job."""
    if job := os.environ.get("SLURM_JOB_ID"):
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
        subprocess.run(["scontrol", "requeue", job], check=False)
