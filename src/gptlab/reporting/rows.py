"""Lay out many runs as rows: the settings that differ, the cost and score of each run, and how much of it is the seed.

A run's task says which metrics it has, and by which of them it is ranked; gptlab.metrics says which way is better.
"""

import contextlib
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.errors import UserError, printable
from gptlab.metrics import Metric, metric
from gptlab.reporting.curves import Curves, read_curves
from gptlab.reporting.figures import Figure, figures_of
from gptlab.runs.config_file import fixed_budget
from gptlab.runs.differences import differences, same_but_seed
from gptlab.runs.reader import SILENT, RunRecord
from gptlab.tasks.base import Task
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tasks.saved import task_of

MOST_KEYS = 40  # at most so many columns of settings


@dataclass
class Row:
    """A run with its figures, as far as there are any; `mean` and `error` are of its seeds' scores."""

    run: RunRecord
    curves: Curves
    asked: dict[str, Any]  # the settings that differ between the runs
    figures: dict[str, float | None]  # by their keys in the report's figures; NaN if the run diverged
    group: int = 0  # runs of one group differ in the seed alone
    mean: float | None = None
    error: float | None = None  # standard error; None for a single seed
    seeds: int = 0

    @property
    def status(self) -> str:
        """The run's status, with a ? if it says running and has written nothing for long."""
        return self.run.status + ("?" if self.run.silent > SILENT else "")


@dataclass
class Report:
    """The rows of a report, best group first; `score` is the metric by which they are ranked."""

    rows: list[Row]
    keys: dict[str, str]  # the settings that differ: dotted key -> its short name
    figures: dict[str, Figure]
    score: Metric
    notes: list[str]

    def groups(self) -> list[list[Row]]:
        """Return the rows by group, best first."""
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return list(found.values())

    def label(self, row: Row, seed: bool = False) -> str:
        """Return the settings that distinguish a row's group from the others, or the row itself."""
        keys = [key for key in self.keys if seed or key != "seed"]
        told = [f"{self.keys[key]}={shown(row.asked[key])}" for key in keys if row.asked[key] is not None]
        return ", ".join(told) or row.run.name


def tabulate(runs: Sequence[RunRecord]) -> Report:
    """Return the report on some runs; only finished ones count for a group's mean and rank."""
    differing = _by_budget(runs, differences(runs))
    left_out = len(differing) - MOST_KEYS
    differing = dict(itertools.islice(differing.items(), MOST_KEYS))
    tokenizers, texts = {run.tokenizer for run in runs} - {None}, {run.data_hash for run in runs} - {None}
    tasks = _tasks(runs) or [CausalLM()]
    figures = figures_of({name for task in tasks for name in task.metrics})
    score = _score(tasks[0], figures, len(tokenizers))
    rows = [_row(run, {key: values[i] for key, values in differing.items()}, figures) for i, run in enumerate(runs)]
    by_run = {id(row.run): row for row in rows}
    groups = [[by_run[id(run)] for run in group] for group in same_but_seed(runs)]
    for group in groups:
        every = [row.figures[score.key] for row in group if row.run.status == "finished"]
        values = [value for value in every if value is not None and math.isfinite(value)]
        for row in group:
            row.seeds = len(values)
            row.mean = statistics.mean(values) if values else None
            row.error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    groups.sort(key=lambda group: math.inf if group[0].mean is None else score.sign * group[0].mean)
    for number, group in enumerate(groups):
        for row in group:
            row.group = number
    notes = _notes(rows, figures, len(tokenizers), len(texts))
    if len(tasks) > 1:
        notes.insert(0, f"There are {len(tasks)} tasks: runs are ranked by {score.head}, and compare only within one.")
    if left_out > 0:
        notes.append(f"{left_out:,} more settings differ; the table shows the first {MOST_KEYS}.")
    return Report([row for group in groups for row in group], _short(list(differing)), figures, score, notes)


def shown(value: Any) -> str:
    """Return a setting in few characters."""
    if value is None:
        return "-"
    text = printable(f"{value:.4g}" if isinstance(value, float) else str(value))
    return text if len(text) <= 40 else text[:18] + " ... " + text[-18:]


def finite(value: float | None) -> float | None:
    """Return a number, or None if it is not finite."""
    return None if value is None or not math.isfinite(value) else value


def _tasks(runs: Sequence[RunRecord]) -> list[Task]:
    """Return the tasks of the runs, one of each kind, most frequent first; unknown ones are left out."""
    found: dict[type, list[Task]] = {}
    for run in runs:
        with contextlib.suppress(UserError):
            task = task_of(run.config)
            found.setdefault(type(task), []).append(task)
    return [same[0] for same in sorted(found.values(), key=len, reverse=True)]


def _score(task: Task, figures: dict[str, Figure], tokenizers: int) -> Metric:
    """Return the metric that ranks runs: the task's choice, unless it is per token and there are several tokenizers."""
    own = metric(task.better)
    if tokenizers <= 1 or own.per != "token":
        return own
    others = [each.metric for each in figures.values() if each.metric and each.metric.name in task.metrics]
    return next((each for each in others if each.per != "token"), own)


def _row(run: RunRecord, asked: dict[str, Any], shown: dict[str, Figure]) -> Row:
    curves = read_curves(run)
    steps = int(run.figure("steps") or curves.steps)
    tokens = int(run.figure("tokens") or steps * curves.tokens_per_step)
    otherwise = {
        "steps": steps,
        "tokens": tokens,
        "flops": tokens * curves.flops_per_token if curves.flops_per_token else None,
        "seconds": finite(curves.seconds_at([steps])[0]),
    }
    otherwise |= {key: curves.last(each.metric.name) for key, each in shown.items() if each.metric}
    figures = {key: run.figure(key, otherwise[key]) for key in shown}
    return Row(run, curves, asked, figures | {"steps": steps, "tokens": tokens})


def _notes(rows: Sequence[Row], figures: dict[str, Figure], tokenizers: int, texts: int) -> list[str]:
    """Return notes that keep a reader from drawing wrong conclusions."""
    notes = []
    per_token = [each.head for each in figures.values() if each.metric and each.metric.per == "token"]
    if tokenizers > 1 and per_token:
        notes.append(f"There are {tokenizers} tokenizers: {' and '.join(per_token)} do not compare between them.")
    if texts > 1:
        notes.append(f"There are {texts} different texts: compare only runs on the same one.")
    budgets = {_budget(row.run) for row in rows}
    if len(rows) > 1 and len(budgets) == 1 and None not in budgets:
        notes.append(f"All have the same budget: {budgets.pop()}.")
    if any(row.status.endswith("?") for row in rows):
        notes.append(
            f"running?: nothing was written for {SILENT // 60} minutes or more; go on with gptlab train resume=RUN."
        )
    if any(row.run.status not in ("finished", "running") for row in rows):
        notes.append("Only finished runs count for means and ranks.")
    return notes


def _budget(run: RunRecord) -> str | None:
    """Return the unit that was held fixed, and its amount."""
    given = run.config.get("budget")
    if not isinstance(given, dict):
        return None
    unit, amount = next(iter(fixed_budget(given).items()))
    return f"{unit}={shown(amount)}"


def _by_budget(runs: Sequence[RunRecord], differing: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return one column that names the unit, instead of one for each, if runs hold different units fixed."""
    units = [key for key in differing if key.startswith("budget.")]
    if len(units) < 2:
        return differing
    others = {key: values for key, values in differing.items() if key not in units}
    return {**others, "budget": [_budget(run) for run in runs]}


def _short(keys: list[str]) -> dict[str, str]:
    """Return each key by its last word, unless another ends in it; a budget's is the head of a figure, too."""
    last = [printable(key.rpartition(".")[2]) for key in keys]
    alone = [last.count(word) == 1 and not key.startswith("budget.") for key, word in zip(keys, last, strict=True)]
    return {key: word if clear else printable(key) for key, word, clear in zip(keys, last, alone, strict=True)}
