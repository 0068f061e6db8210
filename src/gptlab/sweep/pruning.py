"""Stop the trials of a search that do worse than the others at the same step: successive halving, asynchronously.

Nothing is asked of a job: its validations are read in its metrics.csv, and it is stopped as Ctrl-C stops a run, with a
checkpoint and a summary. Li et al. 2020 (ASHA), Li et al. 2018 (Hyperband).
"""

import math
from pathlib import Path
from typing import Any

from gptlab.sweep.job import Job
from gptlab.sweep.live import tail_of

EARLIEST = 1 / 8  # of a run's steps are made before it is compared: before, a high learning rate only looks bad
RUNGS = "rungs"  # what a study calls the steps of the first and of the last comparison
DOOMED = "doomed"  # what a trial is called that is to be pruned: a kill may come before its job has ended


class Pruning:
    """A pruner of a study: call it with each running job, and stop those of which it returns True.

    `trials` are those that are launched, by the numbers of their jobs. The first comparison is at step `min_steps`, or
    after an eighth of a run, each next one at `factor` times the steps; the best of `factor` that come there go on.
    Hyperband divides the trials between several first steps.
    """

    def __init__(
        self, optuna: Any, study: Any, metric: str, hyperband: bool, min_steps: int | None, factor: int
    ) -> None:
        self.optuna, self.study, self.metric = optuna, study, metric
        self.hyperband, self.min_steps, self.factor = hyperband, min_steps, factor
        self.trials: dict[int, Any] = {}
        self._read: dict[Path, tuple[int, int]] = {}  # the time and size of a file when it was last read
        self._told: dict[int, int] = {}  # the last step of each trial that the study knows
        study.pruner = optuna.pruners.NopPruner()  # until the steps are known
        if (rungs := study.user_attrs.get(RUNGS)) is not None:
            self._begin(*rungs)

    def __call__(self, job: Job) -> bool:
        """Report what a job has validated since the last call; return whether it should stop."""
        path, trial = job.path / "metrics.csv", self.trials[job.num]
        try:
            state = path.stat()
        except OSError:
            return False
        if self._read.get(path) == (state.st_mtime_ns, state.st_size):
            return False
        self._read[path] = state.st_mtime_ns, state.st_size
        if job.num not in self._told:  # once: the study reads all of its trials for it
            self._told[job.num] = max(self.study.trials[job.num].intermediate_values, default=0)
        told = self._told[job.num]
        new = [(step, value) for step, value in values_in(path, self.metric) if step > told]
        for step, value in new:
            self._told[job.num] = step
            if self._compared(trial, job, step, value):
                return True
        return False

    def _compared(self, trial: Any, job: Job, step: int, value: float) -> bool:
        """Report a value; return whether its trial should end."""
        if self.study.user_attrs.get(RUNGS) is None:
            planned = job.result().get("planned_steps")
            last = planned if isinstance(planned, int) else step
            rungs = [self.min_steps or max(step, math.ceil(EARLIEST * last)), last]
            self.study.set_user_attr(RUNGS, rungs)
            self._begin(*rungs)
        trial.report(value, step)
        if trial.user_attrs.get(DOOMED) or trial.should_prune():
            trial.set_user_attr(DOOMED, True)
            return True
        return False

    def _begin(self, first: int, last: int) -> None:
        pruners = self.optuna.pruners
        if self.hyperband:
            self.study.pruner = pruners.HyperbandPruner(first, max(first, last), self.factor)
        else:
            self.study.pruner = pruners.SuccessiveHalvingPruner(first, self.factor)


def values_in(path: Path, name: str) -> list[tuple[int, float]]:
    """Return the steps and the values of a metric in the last rows of a metrics.csv, but for step 0."""
    found = []
    for step, row in tail_of(path):
        try:
            value = float(row.get(name) or "")
        except ValueError:
            continue
        if step:
            found.append((step, value))
    return found
