"""Time some steps of a run's own training, and keep nothing of it."""

import contextlib
import dataclasses
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gptlab.distributed.devices import may_be_gpu
from gptlab.errors import RunFailed
from gptlab.training.budget import Budget
from gptlab.training.build import build
from gptlab.training.config import Checkpoint, TrainConfig
from gptlab.training.lightning_internals import device_of, silence_advice
from gptlab.training.loggers import Monitor
from gptlab.training.memory import is_out_of_memory
from gptlab.training.module import NotFinite
from gptlab.training.run import attach_loggers
from gptlab.training.start import Start, initial_model, start
from gptlab.training.step_parts import PARTS, REST, Measured, Step, StepParts

LONGEST = 1e8  # seconds that an alarm can wait
ENDLESS = 1 << 30  # steps: none of what is due at the end of a run, or once in a while, is due


class TimeIsUp(BaseException):
    """The end of something that took longer than it may; nothing on the way takes it for an error of its own."""


@dataclass(frozen=True)
class TrainingSpeed:
    """Steps that were timed, with all that belongs to them."""

    steps: list[Step]
    free: list[Step]  # the same on a GPU without waiting for it between the parts; their totals alone mean something
    log_every: int  # steps
    micro_batches: int
    micro_batch_size: int
    flops_per_token: int
    parameters: int
    device: torch.device
    asked: float  # seconds of timed steps that were asked for
    seconds: float  # of the whole measurement, with building, compilation and the first steps

    def mean(self, part: str) -> float:
        """Return the mean seconds of a part of a step."""
        return statistics.fmean(step.seconds[part] for step in self.steps)

    @property
    def parts(self) -> dict[str, float]:
        """The mean seconds of each part; they add up to the mean step."""
        return {part: self.mean(part) for part in PARTS}

    @property
    def log_seconds(self) -> float:
        """The mean seconds of a step that its log takes, as far as it can be told from steps without one."""
        by_log = {logged: [s.seconds[REST] for s in self.steps if s.logged is logged] for logged in (True, False)}
        if not all(by_log.values()):
            return 0.0
        more = statistics.median(by_log[True]) - statistics.median(by_log[False])
        return max(0.0, more) * len(by_log[True]) / len(self.steps)

    @property
    def seconds_per_step(self) -> float:
        """The mean seconds of a step, as it is when no part is waited for."""
        return statistics.fmean(step.total for step in self.free or self.steps)

    @property
    def step_seconds(self) -> list[float]:
        """The seconds of each step, or, on a GPU, of as many as are logged together, on average."""
        each = [step.total for step in self.free or self.steps]
        together = self.log_every if self.free else 1
        return [statistics.fmean(each[i : i + together]) for i in range(0, len(each), together)]

    @property
    def tokens_per_second(self) -> float:
        steps = self.free or self.steps
        return sum(step.tokens for step in steps) / sum(step.total for step in steps)


def for_timing(config: TrainConfig, run_dir: Path) -> TrainConfig:
    """Return a run's config for timing its steps on one device: nothing is due but steps and their log.

    One of several devices takes its share of the batch. Dashboards, and the callbacks of others, are left out.
    """
    trainer, data, devices = config.trainer, config.data, num_devices(config)
    trainer = dataclasses.replace(
        trainer,
        devices=1,
        num_nodes=1,
        strategy="auto",
        val_every_n_steps=ENDLESS,
        val_at_start=False,
        max_minutes=None,
        profile=False,
        enable_progress_bar=False,
    )
    schedule: Any = config.schedule
    if getattr(schedule, "batch", None):
        schedule = dataclasses.replace(schedule, batch=[])
    return dataclasses.replace(
        config,
        trainer=trainer,
        data=dataclasses.replace(data, batch_size=max(1, data.batch_size // devices)),
        schedule=schedule,
        logger=dataclasses.replace(config.logger, wandb=False, mlflow=False, trackio=False, others={}),
        callbacks=Monitor(config.callbacks.norms),
        budget=Budget(steps=ENDLESS),
        checkpoint=Checkpoint(every_n_steps=None),
        sample_prompts=[],
        run_dir=str(run_dir),
        resume=None,
        branch=False,
        on_nan="stop",
        spike_sigmas=0.0,
    )


def num_devices(config: TrainConfig) -> int:
    """Return the number of devices that a config would train on; `auto` is all GPUs of this machine, or one device."""
    asked, on_gpu = config.trainer.devices, may_be_gpu(config.trainer.accelerator)
    here = len(asked) if isinstance(asked, list) else int(asked) if str(asked).isdecimal() else 0
    return max(1, here or (torch.cuda.device_count() if on_gpu else 1)) * config.trainer.num_nodes


@contextlib.contextmanager
def passing_start(config: TrainConfig, console: Console) -> Iterator[Start]:
    """Yield the start of a run whose steps are to be timed, in a directory that is removed."""
    silence_advice()
    with tempfile.TemporaryDirectory() as folder:
        yield start(for_timing(config, Path(folder) / "run"), console)


def time_training(begun: Start, seconds: float, console: Console) -> TrainingSpeed:
    """Train for about so many seconds behind the first steps, and return how long the parts of a step took.

    Raises RunFailed where a gradient is not finite.
    """
    began = time.perf_counter()
    parts = build(begun, console)
    device, log_every = device_of(parts.trainer), begun.config.logger.every_n_steps
    clocks = [StepParts(seconds, log_every)]
    if device.type != "cpu":
        clocks.append(StepParts(seconds / 2, log_every, waits=False))
    for number, clock in enumerate(clocks):
        if number:
            parts = build(_again(begun), console)
        _fit(begun, parts, clock)
    return TrainingSpeed(
        clocks[0].steps,
        clocks[1].steps if len(clocks) > 1 else [],
        log_every,
        parts.trainer.accumulate_grad_batches,
        parts.datamodule.micro_batch_size,
        parts.flops_per_token,
        parts.parameters,
        device,
        seconds,
        time.perf_counter() - began,
    )


def with_change(begun: Start, **changes: Any) -> Start:
    """Return the same start with other values of its config, and the weights that it begins with as they were."""
    return dataclasses.replace(_again(begun), config=dataclasses.replace(begun.config, **changes))


def _again(begun: Start) -> Start:
    """Return the start with its first weights read once more, where it has any: they have been trained."""
    return dataclasses.replace(begun, initial=initial_model(begun.config)[0]) if begun.initial else begun


def _fit(begun: Start, parts: Any, clock: StepParts) -> None:
    parts.trainer.callbacks.insert(0, clock)  # before what is due at the end of a step
    try:
        attach_loggers(begun, parts)
        parts.trainer.fit(parts.module, parts.datamodule)
    except Measured:
        pass
    except NotFinite as error:
        raise RunFailed(f"{error}; train it with trainer.detect_anomaly=true to find the operator") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailed("a training step does not fit into memory; try a smaller data.micro_batch_size") from error


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Raise TimeIsUp in what is done here if it takes longer, and before it where there is no time at all.

    Where there are no alarms it may take longer.
    """
    if seconds <= 0:
        raise TimeIsUp
    if threading.current_thread() is not threading.main_thread() or os.name != "posix":
        yield
        return

    def late(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, LONGEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
