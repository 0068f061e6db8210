"""Try changes of a run's config that may make its steps faster, as long as there is time."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from gptlab.distributed.devices import cores
from gptlab.errors import UserError, one_line, reason
from gptlab.planning.advice import WAITING, Trial
from gptlab.training.config import TrainConfig
from gptlab.training.precision import chosen_precision, slow_precision
from gptlab.training.start import Start
from gptlab.training.step_parts import DATA
from gptlab.training.timing import TimeIsUp, TrainingSpeed, ended_after, time_training, with_change

LATE = 3.0  # seconds from which it is told that a change begins later


@dataclass(frozen=True)
class Change:
    """A change of a config, as it is typed, and its values."""

    told: str
    values: dict[str, Any] = field(default_factory=dict)
    note: str = "tried here"
    within: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def candidates(config: TrainConfig, speed: TrainingSpeed) -> Iterator[Change]:
    """Yield the changes that may help this config on this device, those that take long last."""
    trainer, data = config.trainer, config.data
    optimizer: Any = config.optimizer
    best = chosen_precision("auto", trainer.accelerator)
    if trainer.precision.startswith("32") and best != "32-true":
        values = {"trainer": dataclasses.replace(trainer, precision=best)}
        yield Change("trainer.precision=auto", values, f"tried here, where it is {best}: see that losses stay as low")
    if slow_precision(trainer.precision, speed.device):
        yield Change("trainer.precision=32-true", {"trainer": dataclasses.replace(trainer, precision="32-true")})
    workers = getattr(data, "num_workers", None)
    if workers is not None and speed.mean(DATA) > WAITING * speed.seconds_per_step:
        more: Any = {"num_workers": max(2, 2 * workers)}
        yield Change(f"data.num_workers={more['num_workers']}", {"data": dataclasses.replace(data, **more)})
    if getattr(optimizer, "fused", True) is False:
        yield Change("optimizer.fused=true", {"optimizer": dataclasses.replace(optimizer, fused=True)})
    if speed.device.type == "cpu" and "OMP_NUM_THREADS" in os.environ and torch.get_num_threads() < cores():
        yield Change(f"OMP_NUM_THREADS={cores()}", within=lambda: _threads(cores()))
    if not config.compile and (speed.device.type == "cuda" or shutil.which(os.environ.get("CXX", "g++"))):
        yield Change("compile=true", {"compile": True})


def try_changes(begun: Start, speed: TrainingSpeed, until: float, console: Console) -> list[Trial]:
    """Return what each change gives by itself; they end at the time `until`, by time.perf_counter.

    A change is tried where there is as much time as the steps without it have taken. One that needs more has no gain,
    nor has one that fails.
    """
    found = []
    for change in candidates(begun.config, speed):
        after, note, error, left = list[float](), change.note, None, until - time.perf_counter()
        if left > speed.seconds:
            console.print(f"trying {change.told}", highlight=False)
            try:
                with contextlib.suppress(TimeIsUp), ended_after(left), change.within():
                    changed = time_training(with_change(begun, **change.values), speed.asked, console)
                    after, later = changed.step_seconds, changed.seconds - speed.seconds
                    note += f"; its first steps took {later:.0f} s more" if later > LATE else ""
            except (RuntimeError, UserError) as failed:  # of a compiler too; what was measured is kept
                error = one_line(reason(failed))
        found.append(dataclasses.replace(Trial.of(change.told, speed.step_seconds, after, note), error=error))
    return found


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
