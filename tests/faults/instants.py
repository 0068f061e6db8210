"""Name the instants of a run at which it can be stopped or killed, and let something happen at them.

A run in a forked process costs a fraction of a second: the parent has imported everything.
"""

import contextlib
import functools
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptlab.runs.run_dir import RunDir
from gptlab.tasks import causal_lm
from gptlab.training import run
from gptlab.training.callbacks import end_of_step
from gptlab.training.callbacks import samples as samples_file
from gptlab.training.callbacks.checkpointing import Checkpoints
from gptlab.training.callbacks.end_of_step import EndOfStep
from gptlab.training.callbacks.samples import Samples
from gptlab.training.module import GPTModule
from gptlab.training.peak_flops import PeakFlops
from tests.forked import in_fork

Instant = tuple[str, int]  # what begins or ends, and how often that has happened by now, counted from 1
HOOKS: dict[str, tuple[Any, str]] = {
    "training batch": (GPTModule, "training_step"),
    "optimizer step": (GPTModule, "optimizer_step"),
    "end of step": (EndOfStep, "on_train_batch_end"),
    "log": (EndOfStep, "_log"),
    "validation": (end_of_step, "validate"),
    "validation batch": (GPTModule, "validation_step"),
    "end of validation": (GPTModule, "on_validation_epoch_end"),
    "samples": (Samples, "draw"),
    "samples written": (samples_file, "append"),
    "checkpoint": (Checkpoints, "save"),
    "best": (Checkpoints, "mark_best"),
    "summary": (run, "summarise"),
    "finish": (run, "finish"),
}
FILES: dict[str, tuple[Any, str]] = {
    "rename": (os, "replace"),
    "link": (os, "link"),
    "remove": (Path, "unlink"),
    "folder": (Path, "mkdir"),
    "open": (Path, "open"),
    "sync": (os, "fsync"),
    "create": (RunDir, "create"),
    "go on": (RunDir, "go_on"),
}


def make_runs_quick(patch: pytest.MonkeyPatch) -> None:
    """Spare runs what takes most of a tiny one's time: speed tests of the machine, long samples, waiting for the disk.

    What is not synced is lost when the machine goes down, which none of the tests lets happen.
    """
    patch.setattr(run, "peak_flops", lambda device, bf16: PeakFlops(1e12, "a test"))
    patch.setattr(causal_lm, "continuation", functools.partial(causal_lm.continuation, max_new_tokens=8))
    patch.setattr(os, "fsync", lambda descriptor: None)


@contextlib.contextmanager
def watched(act: Callable[[Instant], None], names: dict[str, tuple[Any, str]]) -> Iterator[None]:
    """Call `act` before and after each call of the functions that `names` lists."""
    counts: Counter[str] = Counter()

    def reach(name: str) -> None:
        counts[name] += 1
        act((name, counts[name]))

    def wrapped(name: str, function: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            reach(f"before {name}")
            result = function(*args, **kwargs)
            reach(f"after {name}")
            return result

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name, (owner, attribute) in names.items():
            patch.setattr(owner, attribute, wrapped(name, getattr(owner, attribute)))
        yield


def instants_of(work: Callable[[], Any]) -> list[Instant]:
    """Do `work` in another process, and return every instant of HOOKS in it."""
    note = Path("instants.txt").absolute()

    def noted() -> None:
        found: list[Instant] = []
        with watched(found.append, HOOKS):
            work()
        note.write_text("".join(f"{name}\t{count}\n" for name, count in found))

    assert in_fork(noted) == (0, "")
    return [(name, int(count)) for name, _, count in (line.partition("\t") for line in note.read_text().splitlines())]


def signalled(instant: Instant, number: int, work: Callable[[], Any]) -> int:
    """Do `work` in another process that sends itself a signal at an instant; returns its exit code."""

    def act(reached: Instant) -> None:
        if reached == instant:
            os.kill(os.getpid(), number)

    def work_with_it() -> None:
        with watched(act, HOOKS):
            work()

    return in_fork(work_with_it)[0]


def left_by_kills(run_dir: Path, work: Callable[[], Any]) -> list[tuple[str, Path]]:
    """Do `work` in another process, and return what a kill at each of its instants would leave of a directory.

    That is a copy of the directory at the instant: a kill loses what is in memory. Instants between which no file
    changed leave the same, so each state comes once, with the name of the instant that it was first seen at.
    """
    folder = Path(f"states-of-{run_dir.name}").absolute()
    folder.mkdir()
    copies: list[str] = []
    last = fingerprint(run_dir)

    def look(instant: Instant) -> None:
        nonlocal last
        if busy or (now := fingerprint(run_dir)) == last:
            return
        last = now
        busy.append(True)  # copying opens files too
        copies.append(f"{len(copies):03d} {instant[0]} {instant[1]}")
        shutil.copytree(run_dir, folder / copies[-1])
        busy.clear()

    busy: list[bool] = []

    def work_with_it() -> None:
        with watched(look, {**HOOKS, **FILES}):
            work()

    code, said = in_fork(work_with_it)
    assert code == 0, said
    return [(path.name, path) for path in sorted(folder.iterdir())]


def fingerprint(run_dir: Path) -> str:
    """Return the digest of the names and contents of all files in a directory."""
    found = hashlib.sha256()
    for folder, names, files in sorted(os.walk(run_dir)):
        names.sort()
        found.update(f"{folder}\n".encode())
        for name in sorted(files):
            found.update(f"{name}\n".encode())
            with open(os.path.join(folder, name), "rb") as file:
                found.update(hashlib.sha256(file.read()).digest())
    return found.hexdigest()
