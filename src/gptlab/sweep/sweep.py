"""Run a sweep: its directory, its repetition, and the table at its end."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.errors import HydraException
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gptlab.config.hydra_internals import VALUE_FLAGS, swept_keys
from gptlab.config.overrides import quoted, unquoted
from gptlab.errors import UserError, require
from gptlab.files import require_writable
from gptlab.metrics import metric
from gptlab.runs.config_file import fixed_budget
from gptlab.runs.origin import SEARCHED
from gptlab.runs.reader import finite, read_run
from gptlab.runs.run_dir import unused
from gptlab.sweep import stored
from gptlab.sweep.confirm import confirm
from gptlab.sweep.job import SETTLED, jobs_in, score_of, score_text
from gptlab.sweep.watch import watched

# what a sweep and Hydra's sweepers write besides the directories of its jobs, and what is in that of a refused job
FILES = (
    *("sweep.json", "multirun.yaml", SEARCHED, "study.db", ".lock"),
    *("job.json", "job.log", "config.yaml"),
)


class Sweep:
    """The jobs under `path` that the command line `argv` asks for."""

    def __init__(self, path: Path, argv: list[str]) -> None:
        self.path = path
        alike = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(_fixed(argv))}]"
        self.argv = _with(argv, [f"hydra.sweep.dir={quoted(str(path))}", alike])
        self._asked = argv
        self.refused: list[str] = []  # the mistakes of its jobs, where none of them has begun

    @classmethod
    def of(cls, argv: list[str]) -> "Sweep | None":
        """Return the sweep of a command line: a new one, or the rest of an old one by `resume_sweep=DIR`."""
        old = _last(argv, "resume_sweep")
        if old not in (None, "", "null"):
            return cls._again(Path(unquoted(str(old))), [arg for arg in argv if not arg.startswith("resume_sweep=")])
        if not {"-m", "--multirun"}.intersection(argv) or any(arg in ("--cfg", "-c", "--info", "-i") for arg in argv):
            return None
        given = _last(argv, "hydra.sweep.dir")
        now = Path(datetime.now().strftime("outputs/multirun/%Y-%m-%d/%H-%M-%S"))
        path = Path(unquoted(given)) if given else unused(now)
        free = not (path / stored.NAME).exists()
        require(free, "hydra.sweep.dir", path, "holds a sweep already", f"go on with it: resume_sweep={path}")
        return cls(path, [arg for arg in argv if not arg.startswith("hydra.sweep.dir=")])

    @classmethod
    def _again(cls, path: Path, more: list[str]) -> "Sweep":
        why = "is not the directory of a sweep"
        there = (path / stored.NAME).exists()
        require(there, "resume_sweep", path, why, "give one such as outputs/multirun/DATE/TIME")
        argv = stored.read_argv(path, more)
        more = [arg for arg in more if arg not in (*argv, "-m", "--multirun")]
        for arg in more:
            key, _, value = arg.partition("=")
            why = "would make it another sweep"
            todo = "leave it out; only hydra.KEY=VALUE, json and what it was started with may be given"
            require(key.startswith("hydra") or key == "json", key, value, why, todo)
        return cls(path, _with(argv, more))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep others from working on the sweep while it runs.

        Where every job was refused nothing is left behind, and `refused` says why; nor where there was none to run.
        """
        there = {self.path, *self.path.parents, *self.path.rglob("*")}
        there = {path for path in there if path.exists()}
        require_writable("hydra.sweep.dir", self.path, self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError("resume_sweep", self.path, "is running", "let it end, or stop it") from error
        try:
            stored.write_argv(self.path, self._asked)
            of_cluster = (_last(self.argv, "hydra/launcher") or "").startswith("submitit")
            with watched(self.path) if of_cluster else nullcontext():
                yield
        finally:
            lock.release()
            results = self.results()
            if all(result["status"] == "refused" for result in results):
                self.refused = list(dict.fromkeys(str(result["error"]) for result in results))
                self._remove_all_but(there)

    def _remove_all_but(self, kept: set[Path]) -> None:
        """Remove the files that a sweep without a job has written, and the folders that it has made."""
        made = [path for path in (self.path, *self.path.parents, *self.path.rglob("*")) if path not in kept]
        for path in sorted(made, key=lambda path: -len(path.parts)):
            with suppress(OSError):  # a folder in which others have put something
                if path.is_dir():
                    path.rmdir()
                elif path.name in FILES:
                    path.unlink()

    def results(self) -> list[dict[str, Any]]:
        """Return the result of each job: its summary, with `overrides`, `status` and perhaps `error`."""
        return [job.result() for job in jobs_in(self.path)]

    def confirmed(self) -> dict[str, Any] | None:
        """Run the best config again with fresh seeds, as many as `confirm=` asks for, and return what came of it.

        None where none are asked for, or a job has not finished.
        """
        number = _last(self.argv, "confirm") or "0"
        if not number.isdecimal() or number == "0":
            return None
        if missing := self._missing(self.results()):
            print(f"confirm={number}: not yet, {len(missing)} jobs have not finished", flush=True)
            return None
        launcher = [arg for arg in self._asked if re.match(r"hydra[/.]launcher\b", arg)]
        return confirm(self.path, int(number), launcher)

    def report(self, results: list[dict[str, Any]]) -> None:
        """Print one table of all jobs, their common settings, and the command that runs the missing ones."""
        fixed = _fixed(self._asked)
        scores = dict.fromkeys(metric(result["search_metric"]).head for result in results)
        names = ("steps", " or ".join(scores), "seconds")
        columns = [Column(name, justify="right", no_wrap=True) for name in names]
        table = Table("job", Column("overrides", overflow="fold"), "status", *columns)
        for job, result in zip(jobs_in(self.path), results, strict=True):
            swept = Text(" ".join(o for o in result["overrides"] if o.partition("=")[0] not in fixed))
            table.add_row(str(job.num), swept, result["status"], *_figures(result))
        console = Console()
        console.print(table)
        console.print(f"held fixed: {self.budget()}", highlight=False)
        if self._missing(results):
            line = f"to run what is missing: gptlab train resume_sweep={self.path}"
            console.print(line, highlight=False, soft_wrap=True)

    def _missing(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the results of jobs that a repetition would run; a search does not try again what has failed."""
        ended = {*SETTLED, "failed", "refused"} if _last(self.argv, "hydra/sweeper") == "search" else {*SETTLED}
        return [result for result in results if result["status"] not in ended]

    def budget(self) -> str:
        """Return the budget that all jobs have in common, in words."""
        budgets = [read_run(job.path, "").config.get("budget") for job in jobs_in(self.path)]
        units = [fixed_budget(budget) for budget in budgets if isinstance(budget, dict)]
        held = {(unit, amount) for each in units for unit, amount in each.items() if finite(amount) is not None}
        if len(held) != 1:
            return "no budget, the jobs differ in it" if held else "nothing, no job has begun"
        unit, amount = held.pop()
        return f"budget.{unit}={amount:,}"


def exit_code(results: list[dict[str, Any]]) -> int:
    """Return 2 if a job was refused, 1 if one has not ended well (also with a score that is not finite), else 0."""
    if any(result["status"] == "refused" for result in results):
        return 2
    return int(any(result["status"] != "pruned" and _ended_badly(result) for result in results))


def _ended_badly(result: dict[str, Any]) -> bool:
    return result["status"] != "finished" or score_of(result) is None


def _figures(result: dict[str, Any]) -> tuple[str, str, str]:
    steps, seconds = (finite(result.get(key)) for key in ("steps", "seconds"))
    if steps is None:
        return "", "", ""
    return f"{steps:,.0f}", score_text(result), "" if seconds is None else f"{seconds:,.0f}"


def _fixed(argv: list[str]) -> list[str]:
    """Return the keys that have one value in all jobs; the names of jobs leave them out."""
    try:
        swept = swept_keys([arg for arg in argv if "=" in arg and arg[0] != "-"])
    except HydraException:
        return []  # Hydra reports the error
    return [key for key, is_swept in swept.items() if not is_swept]


def _with(argv: list[str], more: list[str]) -> list[str]:
    """Return a command line with more overrides after the others: Hydra takes overrides only in one piece."""
    after = [i + 1 for i, arg in enumerate(argv) if "=" in arg and arg[0] != "-" and argv[i - 1] not in VALUE_FLAGS]
    end = max(after, default=len(argv))
    return [*argv[:end], *more, *argv[end:]]


def _last(argv: list[str], key: str) -> str | None:
    given = [arg.partition("=")[2] for arg in argv if re.fullmatch(rf"\+{{0,2}}{re.escape(key)}=.*", arg, re.DOTALL)]
    return given[-1] if given else None
