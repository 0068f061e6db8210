"""Show how far the jobs of a sweep are while they run: a table in a terminal, lines in a log.

All of it is read from the files that the jobs write anyway, about once a second: nothing is asked of a job.
"""

import contextlib
import csv
import heapq
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from gptlab.errors import UserError
from gptlab.metrics import Metric, metric
from gptlab.sweep.job import Job

TAIL = 1 << 16  # bytes at the end of metrics.csv that are read
DRAWN_EVERY, SAID_EVERY = 1.0, 60.0  # seconds from one table to the next, and from one line of a job to the next
SHOWN = ("train/loss", "train/tokens_per_second")


@dataclass
class Progress:
    """The state of a job by its own files, and the time that it has left by its speed since it was first looked at."""

    job: Job
    score: Metric  # that a search ranks it by
    begun: float  # seconds of the clock
    step: int = 0
    planned: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    _first: tuple[float, int] | None = None  # when a step was first seen, and which; the latest one:
    _last: tuple[float, int] | None = None

    def look(self, now: float) -> None:
        """Read how far the job is."""
        step, found = last_values(self.job.path / "metrics.csv", (*SHOWN, self.score.name))
        self.values |= found
        if self.planned is None:
            with contextlib.suppress(UserError):  # its end says what is wrong with the file
                planned = self.job.result().get("planned_steps")
                self.planned = planned if isinstance(planned, int) and planned > 0 else None
        if step > self.step:
            self.step = step
            self._last = now, step
            self._first = self._first or self._last

    def left(self, now: float) -> float | None:
        """Return the seconds until the job ends, with its validations and checkpoints so far; None if not known yet."""
        if self._first is None or self._last is None or self.planned is None or self._last[1] == self._first[1]:
            return None
        pace = (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])
        return max(0.0, (self.planned - self._last[1]) * pace - (now - self._last[0]))

    def text(self, row: Metric) -> str:
        """Return the last value of a metric as text."""
        return row.text(self.values.get(row.name))


class Board:
    """The jobs of one launch: those that run, those that wait, and how those went that have ended."""

    def __init__(self, jobs: Sequence[Job], console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.jobs, self.console, self.clock = list(jobs), console, clock
        self.running: dict[Job, Progress] = {}
        self.ended: dict[Job, tuple[str, Progress]] = {}  # their status, and how far they came
        self._seconds: list[float] = []  # of those that have finished
        self._drawn = self._said = clock()
        self._live: Live | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the table until the end, if there is a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield

    def start(self, job: Job) -> None:
        self.running[job] = Progress(job, job.search_metric, self.clock())

    def add(self, job: Job, status: str | None) -> None:
        """Take in a job that was not known of at first: it runs, or it had ended before, with that status."""
        self.jobs = sorted([*self.jobs, job], key=lambda each: each.num)
        if status is None:
            self.start(job)
        else:
            self.ended[job] = status, Progress(job, job.search_metric, self.clock())
            self.ended[job][1].look(self.clock())

    def end(self, job: Job, status: str) -> None:
        progress = self.running.pop(job)
        progress.look(self.clock())
        self.ended[job] = status, progress
        if status == "finished":
            self._seconds.append(self.clock() - progress.begun)

    def update(self) -> None:
        """Look at the running jobs and show them, unless that was done a moment ago."""
        now = self.clock()
        if now - self._drawn < DRAWN_EVERY:
            return
        self._drawn = now
        for progress in self.running.values():
            progress.look(now)
        if self._live is not None:
            self._live.update(self.table(now), refresh=True)
        elif now - self._said >= SAID_EVERY:
            self._said = now
            for line in self.lines(now):
                self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def lines(self, now: float) -> list[str]:
        """Return a line for each running job that has logged something, and one for the whole."""
        found = []
        for job, progress in self.running.items():
            if progress.step:
                loss, speed = (progress.text(metric(name)) for name in SHOWN)
                line = f"job {job.num}: step {_steps(progress)} · loss {loss} · {speed} tokens/s"
                left = progress.left(now)
                found.append(line if left is None else f"{line} · {_time(left)} left")
        return [*found, self.whole(now)]

    def whole(self, now: float) -> str:
        """Return how many jobs have ended, and how long the others take, in words."""
        if not self.jobs:
            return "waiting for the first job"
        left = self.left(now)
        text = f"{len(self.ended)} of {len(self.jobs)} jobs have ended"
        return text if left is None else f"{text} · {_time(left)} left"

    def left(self, now: float) -> float | None:
        """Return the seconds until all jobs have ended: each that waits takes a place when one is free.

        It takes as long as the others do on average; None until something is known of all that run.
        """
        ends = [progress.left(now) for progress in self.running.values()]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends) or not (known or self._seconds):
            return None
        whole = [now - p.begun + end for p, end in zip(self.running.values(), known, strict=True)]
        mean = sum(whole + self._seconds) / len(whole + self._seconds)
        free = known or [0.0]
        heapq.heapify(free)
        for _ in range(len(self.jobs) - len(self.ended) - len(self.running)):
            heapq.heappush(free, heapq.heappop(free) + mean)
        return max(free)

    def table(self, now: float) -> Table:
        """Return the jobs that run, and as many of those that have ended or wait as there is room for."""
        known = [*self.running.values(), *(progress for _, progress in self.ended.values())]
        heads = dict.fromkeys(progress.score.head for progress in known) or {"score": None}
        names = ("step", "train loss", " or ".join(heads), "tokens/s", "left")
        narrow = [name.replace(" ", "\n") for name in names]  # 80 columns have room for what is swept
        columns = [Column(name, justify="right", no_wrap=True) for name in narrow]
        first = Column("job", no_wrap=True), Column("overrides", overflow="ellipsis"), Column("status", no_wrap=True)
        table = Table(*first, *columns, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.caption, table.caption_justify = self.whole(now), "left"
        room = max(1, self.console.height - 7 - len(self.running))
        others = [job for job in self.jobs if job not in self.running]
        recent = list(self.ended)[-room:]
        waiting = [job for job in others if job not in self.ended][: max(0, room - len(recent))]
        for job in (job for job in self.jobs if job in {*self.running, *recent, *waiting}):
            swept = Text(job.path.name.partition("-")[2], no_wrap=True, overflow="ellipsis")
            figures: list[str] = []
            status, progress = self.ended.get(job, ("running", self.running.get(job)))
            if progress is None:
                status = "waiting"
            else:
                loss, speed = (progress.text(metric(name)) for name in SHOWN)
                left = progress.left(now) if job in self.running else None
                figures = [
                    _steps(progress),
                    loss,
                    progress.text(progress.score),
                    speed,
                    "" if left is None else _time(left),
                ]
            table.add_row(str(job.num), swept, status, *figures)
        return table


def last_values(path: Path, names: Sequence[str]) -> tuple[int, dict[str, float]]:
    """Return the last step in a metrics.csv, and the last value of some metrics in its last rows."""
    step, found = 0, dict[str, float]()
    for at, row in tail_of(path):
        step = max(step, at)
        for name in names:
            with contextlib.suppress(ValueError, TypeError):
                found[name] = float(row.get(name) or "")
    return step, found


def tail_of(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the last rows of a metrics.csv, each with its step.

    A job writes the file meanwhile: a line without an end is left out, and a file that is no such table has nothing.
    """
    try:
        with path.open("rb") as file:
            head = file.readline(TAIL).decode("utf-8", "replace").strip()
            size = os.fstat(file.fileno()).st_size
            file.seek(max(len(head), size - TAIL))
            lines = file.read(TAIL).decode("utf-8", "replace").split("\n")[1:-1]  # the first one may be a part of one
    except OSError:
        return []
    found = list[tuple[int, dict[str, str]]]()
    with contextlib.suppress(csv.Error):
        for row in csv.DictReader(io.StringIO("\n".join(lines)), head.split(",")):
            if str(row.get("step") or "").isdecimal() and len(row["step"]) < 16:
                found.append((int(row["step"]), row))
    return found


def _steps(progress: Progress) -> str:
    return f"{progress.step:,}/{progress.planned:,}" if progress.planned else f"{progress.step:,}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
