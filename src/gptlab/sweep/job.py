"""Run one job of a sweep in its own directory, by its own saved config, in its own processes.

Its directory is that of a run, with two more files: job.json (its overrides and its failure, if any) and job.log (all
its output).
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from gptlab.config.overrides import quoted
from gptlab.errors import UserError, require
from gptlab.files import read_object, write_atomically
from gptlab.metrics import Metric, metric
from gptlab.runs.config_file import read_config, record, write_config
from gptlab.runs.reader import finite

MOST_BYTES = 1 << 20  # of a file of notes
LAST_WORDS = 1 << 16  # bytes at the end of a log that are looked at
MEND = "take it from another copy of the sweep, or remove the folder of this job"
SETTLED = ("finished", "pruned")  # statuses of jobs that have ended as they should
GRACE = 30  # seconds that a stopped job has to save what it learned
LIFELINE = "GPTLAB_LIFELINE"  # in the environment of a job whose standard input closes when the sweep is gone


class Devices(Protocol):
    """The devices that a job asks for, as Lightning's Trainer names them."""

    accelerator: str
    devices: Any
    num_nodes: int


class RunConfig(Protocol):
    """The keys of a training config that a sweep reads."""

    @property
    def trainer(self) -> Devices: ...

    run_dir: str | None
    resume: str | None
    search_metric: str | None


class Job:
    """Job `num` of a sweep in directory `path`: `prepare`, then `start`, then call `running` until it is false."""

    def __init__(self, path: Path, num: int, overrides: list[str]) -> None:
        self.path, self.num = path, num
        self.overrides = [o for o in overrides if not o.startswith("json=")]  # json= is not a setting of the run
        self.stopped = False  # by this launcher
        self.pruned = False  # stopped because a search has no use for it any more
        self.trunk: Job | None = None  # the job whose first steps it shares
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def finished(self) -> bool:
        return self.result()["status"] == "finished"

    @property
    def settled(self) -> bool:
        """True if a sweep has nothing more to do with it."""
        return self.result()["status"] in SETTLED

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that an unfinished job continues from; None if there is none.

        A branch that was killed while its first files were written has one, and no summary yet: it begins again.
        """
        path = self.path / "checkpoints/last.ckpt"
        return path if path.is_file() and (self.path / "summary.json").exists() else None

    def prepare(self, config: RunConfig) -> None:
        """Write down the job's config, or keep what an earlier start of the sweep began, if it got far enough."""
        require(config.resume is None, "resume", config.resume, "a sweep makes new runs", "see resume_sweep=DIR")
        own = Path(config.run_dir or ".").resolve() == self.path.resolve()
        require(own, "run_dir", config.run_dir, "each job of a sweep has a directory of its own", "leave it out")
        self._own()
        if self.finished or self.checkpoint:
            return
        for name in ("summary.json", "metrics.csv", "samples.md"):
            (self.path / name).unlink(missing_ok=True)
        write_config(self.path / "config.yaml", record(config))
        self._note()

    def refuse(self, why: str) -> None:
        """Record a user's mistake: the job is never started."""
        self._own()
        self._note(refused=why)

    def fail(self, why: str) -> None:
        """Record a failure in mid-run."""
        self._note(error=why)

    def start(self, env: dict[str, str] | None = None) -> None:
        """Start a process tree that reads only the job's saved config; `env` is added to this environment."""
        path = self.path.resolve()
        command = [sys.executable, "-m", "gptlab", "train", f"config={quoted(str(path / 'config.yaml'))}"]
        command.append(f"run_dir={quoted(str(path))}")
        if self.checkpoint:
            command.append(f"resume={quoted(str(self.checkpoint.resolve()))}")
        elif self.trunk and self.trunk.finished:  # else all of its steps are its own
            command.append(f"resume={quoted(str(self.trunk.path.resolve()))}")
        with (self.path / "job.log").open("ab") as log:
            _take(log.fileno(), self.path)
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **(env or {}), LIFELINE: "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own
            )

    def running(self) -> bool:
        """Return whether the job is running; one that has ended leaves no process, and its outcome is recorded."""
        assert self._process is not None
        if self._process.poll() is None:
            return True
        self.kill()
        self.ended(self._process.returncode)
        return False

    def stop(self) -> None:
        """Ask the job to save its state, and to end."""
        assert self._process is not None
        self.stopped = True
        self._process.send_signal(signal.SIGINT)  # rank 0 ends the others

    def prune(self) -> None:
        """Stop the job, which counts as ended then."""
        self.pruned = True
        self.stop()

    def kill(self) -> None:
        """End every process of the job."""
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()

    def ended(self, code: int) -> None:
        """Record the job's outcome; the record that a killed process could not write is written for it."""
        summary = self._read("summary.json")
        if summary.get("status") == "running" or (self.pruned and summary.get("status") == "stopped"):
            summary["status"] = "pruned" if self.pruned else "stopped" if self.stopped else "failed"
            write_atomically(self.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
        if code == 0 or self.stopped:
            self._note()
        elif code == 2:
            self.refuse(self._last_words())
        else:
            self.fail(f"killed by {signal.Signals(-code).name}" if code < 0 else self._last_words())

    def result(self) -> dict[str, Any]:
        """Return the job's summary, overrides and search metric.

        `status` is a run's, `pruned`, `waiting` or `refused`; `error` has the reason.
        """
        noted, summary = self._read("job.json"), self._read("summary.json")
        error = noted.get("refused") or noted.get("error")
        status = "refused" if "refused" in noted else str(summary.get("status", "failed" if error else "waiting"))
        result = {**summary, "status": status, "overrides": self.overrides, "run_dir": str(self.path.resolve())}
        result["search_metric"] = self.search_metric.name
        return {**result, "error": error} if error else result

    @property
    def search_metric(self) -> Metric:
        """The metric by which a search ranks the job."""
        named = None
        with contextlib.suppress(UserError):  # a job that was refused has no config
            named = read_config(self.path / "config.yaml").get("search_metric")
        return metric(str(named or "val/loss"))

    def search_value(self) -> float:
        """Return the value that a search minimises: the metric, negated if higher is better.

        It is infinity if there is none (Optuna 2.10 fails on NaN).
        """
        result, row = self.result(), self.search_metric
        value = finite(result.get(row.key))
        return math.inf if value is None or result["status"] != "finished" else row.sign * value

    def _own(self) -> None:
        """Refuse a directory that holds files of another sweep or run."""
        noted = self._read("job.json")
        ours = noted.get("overrides") == self.overrides if noted else not (self.path / "summary.json").exists()
        why, todo = (
            f"{self.path.name} there is another run",
            "a search goes on only with a seed; or give a new directory",
        )
        require(ours, "hydra.sweep.dir", self.path.parent, why, todo)

    def _read(self, name: str) -> dict[str, Any]:
        """Return what one of the job's files says, {} where there is none; raises UserError where it is damaged."""
        path = self.path / name
        return _note_in(path) if os.path.lexists(path) else {}

    def _note(self, **outcome: str) -> None:
        note = {"job": self.num, "overrides": self.overrides, **outcome}
        write_atomically(self.path / "job.json", (json.dumps(note, indent=2) + "\n").encode())

    def _last_words(self) -> str:
        log = self.path / "job.log"
        with log.open("rb") as file:
            file.seek(-min(LAST_WORDS, log.stat().st_size), os.SEEK_END)
            lines = file.read().decode("utf-8", "replace").splitlines()
        return next((line.strip().removeprefix("error: ") for line in reversed(lines) if line.strip()), "said nothing")


def jobs_in(folder: Path) -> list[Job]:
    """Return the jobs of a sweep's directory, in their order."""
    notes = [(path.parent, _note_in(path)) for path in folder.glob("*/job.json")]
    for path, note in notes:
        overrides = note.get("overrides")
        known = isinstance(note.get("job"), int) and isinstance(overrides, list)
        known = known and all(isinstance(each, str) for each in overrides or [])
        require(known, "resume_sweep", path / "job.json", "does not say which job it is", MEND)
    return sorted((Job(path, note["job"], note["overrides"]) for path, note in notes), key=lambda job: job.num)


def _note_in(path: Path) -> dict[str, Any]:
    return read_object("resume_sweep", path, MOST_BYTES, MEND)


def score_of(result: dict[str, Any]) -> float | None:
    """Return the search metric of a job's result; None if there is none, or it is not finite."""
    return finite(result.get(metric(result["search_metric"]).key))


def score_text(result: dict[str, Any]) -> str:
    """Return the search metric of a job that has ended, formatted."""
    score = score_of(result)
    return metric(result["search_metric"]).text(math.nan if score is None else score)


def follow_the_sweep() -> None:
    """Make this job save, end and leave no process behind when the sweep that started it is gone."""
    if LIFELINE not in os.environ or int(os.environ.get("LOCAL_RANK", 0)):
        return

    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore SIGINT by default

    def wait() -> None:
        os.read(0, 1)  # returns when the other end is closed
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _take(log: int, path: Path) -> None:
    """Wait until no process of an earlier start writes to this log; child processes inherit the lock."""
    import fcntl  # not available on Windows

    for _ in range(10 * (GRACE + 5)):
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
    raise UserError("resume_sweep", path.parent, f"{path.name} is still running", "stop it first")
