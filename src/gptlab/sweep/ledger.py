"""Keep a ledger of trials in a file of JSON lines that only grows: none can be repeated, dropped or drawn again.

Each line has the SHA-256 of itself and of the line before it, so that a line which was changed or taken out is found.
A line that a kill left unfinished is cut off.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded, sync, sync_folder

NAME = "ledger.jsonl"
MOST_BYTES = 1 << 28
BEGUN, TRIAL, RUN, VERDICT = "begun", "trial", "run", "verdict"  # what a line is of
SIDES = ("base", "changed")
MEND = "take it from another copy, or begin a new one: ledger=DIR"


@dataclass
class Trial:
    """A change that is tried: what it is, the seeds that it may use, its runs so far, and its verdict, if any."""

    number: int
    change: dict[str, Any]  # what is tried, with the hash by which it is known again
    level: float
    seeds: list[int]
    runs: list[dict[str, Any]] = field(default_factory=list)
    verdict: dict[str, Any] | None = None

    def scores(self, side: str, of: str = "decides") -> list[float]:
        """Return the scores of one side's runs in the order of their seeds; a run that has failed has infinity."""
        own = sorted((run for run in self.runs if run["side"] == side), key=lambda run: int(run["seed"]))
        return [float("inf") if run[of] is None else float(run[of]) for run in own]

    def pairs(self) -> list[int]:
        """Return the seeds of which both sides have run."""
        done = [self.done(side) for side in SIDES]
        return [seed for seed in self.seeds if all(seed in each for each in done)]

    def done(self, side: str) -> set[int]:
        """Return the seeds that one side has run."""
        return {run["seed"] for run in self.runs if run["side"] == side}


class Ledger:
    """The ledger in a folder: what it was begun with, and its trials; `add` writes the next line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.begun: dict[str, Any] = {}
        self.trials: list[Trial] = []
        self._hash, self._length = "", 0
        if os.path.lexists(self.path):
            self._read()

    def add(self, event: str, **content: Any) -> None:
        """Write a line, which is on disk when this returns."""
        line = {"event": event, **content}
        digest = self._next(line)
        text = json.dumps({**line, "sha256": digest}).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._length)
            if b"\n" in file.read():
                raise RuntimeError(f"{self.path} was written by another process")
            file.truncate(self._length)  # of a line that a kill left unfinished
            file.seek(self._length)
            file.write(text)
            sync(file)
        sync_folder(self.path.parent)
        self._hash, self._length = digest, self._length + len(text)
        self._take(line)

    @property
    def open_trial(self) -> Trial | None:
        """The trial without a verdict; None if there is none."""
        return next((trial for trial in self.trials if trial.verdict is None), None)

    @property
    def kept(self) -> list[Trial]:
        """The trials whose change was kept."""
        return [trial for trial in self.trials if trial.verdict and trial.verdict["verdict"] == "kept"]

    def of(self, sha256: str) -> Trial | None:
        """Return the trial of a change; None if it has not been tried."""
        return next((trial for trial in self.trials if trial.change["sha256"] == sha256), None)

    def used_seeds(self) -> set[int]:
        """Return the seeds of all trials, also those that were not needed."""
        return {seed for trial in self.trials for seed in trial.seeds}

    def _read(self) -> None:
        try:
            content = read_bounded(self.path, MOST_BYTES)
        except OSError as error:
            raise UserError("ledger", self.path, f"cannot be read ({reason(error)})", MEND) from error
        for number, text in enumerate(content.splitlines(keepends=True), 1):
            if not text.endswith(b"\n"):
                break
            try:
                line = json.loads(text)
                said = line.pop("sha256")
                known = said == self._next(line)
                if known:
                    self._take(line)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
                known = False
            require(known, "ledger", self.path, f"line {number} is not as it was written, or one is missing", MEND)
            self._hash, self._length = said, self._length + len(text)

    def _next(self, line: dict[str, Any]) -> str:
        return hashlib.sha256((self._hash + json.dumps(line, sort_keys=True)).encode()).hexdigest()

    def _take(self, line: dict[str, Any]) -> None:
        """Take in a line; raises one of the errors that `_read` expects where it says nothing that a gate writes."""
        kind, content = line["event"], {key: value for key, value in line.items() if key != "event"}
        if kind == BEGUN:
            _check(isinstance(content["base"], str) and isinstance(content["settings"], dict) and not self.begun)
            self.begun = content
            return
        number = content["trial"]
        if kind == TRIAL:
            change, level, seeds = content["change"], content["level"], content["seeds"]
            _check(isinstance(change["sha256"], str) and isinstance(change["told"], list))
            _check(number == len(self.trials) + 1 and isinstance(level, float) and 0 < level <= 1)
            _check(bool(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds))
            self.trials.append(Trial(number, change, level, seeds))
            return
        _check(type(number) is int and 1 <= number <= len(self.trials))
        trial = self.trials[number - 1]
        if kind == RUN:
            scores = (content["decides"], content["reports"])
            _check(content["side"] in SIDES and content["seed"] in trial.seeds)
            _check(all(score is None or type(score) in (int, float) for score in scores))
            trial.runs.append(content)
        elif kind == VERDICT:
            _check(isinstance(content["verdict"], str))
            trial.verdict = content


def _check(ok: bool) -> None:
    if not ok:
        raise ValueError("says nothing that a gate writes")
