"""Lay out many runs as rows: the settings that differ, the cost and score of each run, and how much of it is the seed.

A run's task says which metrics it has, and by which of them it is ranked; gptlab.metrics says which way is better.
"""

import contextlib
import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import UserError
from gptlab.evaluation.importance import importance
from gptlab.evaluation.kept_scores import kept_scores
from gptlab.evaluation.statistics import expected_best, pooled_deviation
from gptlab.metrics import Metric, metric
from gptlab.reporting.curves import Curves, read_curves
from gptlab.reporting.figures import Figure, figures_of, of_tasks
from gptlab.reporting.names import Name, names_of, short, shown, tell_apart, varied_keys
from gptlab.runs.config_file import fixed_budget
from gptlab.runs.differences import differences, same_but_seed
from gptlab.runs.origin import confirms, search_of
from gptlab.runs.reader import SILENT, RunRecord
from gptlab.tasks.base import Task, target_of
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tasks.saved import task_of

MOST_KEYS = 40  # at most so many columns of settings
MOST_SCORES = 40  # and of scores of tasks


@dataclass
class Row:
    """A run with its figures, as far as there are any; `mean` and `error` are of its seeds' scores."""

    run: RunRecord
    name: Name
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
    keys: dict[str, str]  # the settings that differ: dotted key -> its short name; the varied ones come first
    varied: list[str]  # the keys that vary within a sweep, or between the runs of an experiment
    figures: dict[str, Figure]
    score: Metric
    target: str  # what a loss is per: token, or as the runs' tasks say
    notes: list[str]
    # of keys, by a search's directory
    importance: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)

    def groups(self) -> list[list[Row]]:
        """Return the rows by group, best first."""
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return list(found.values())

    def label(self, row: Row, seed: bool = False) -> str:
        """Return the name of a row's group, its experiment or sweep and what differs in it, or that of the row."""
        return row.name.text(self.keys, seed) or row.run.name

    def label_without(self, row: Row, key: str) -> str:
        """Return the name of a row's group without one of the settings in it, and with all others that vary."""
        more = {each: shown(row.asked[each]) for each in self.varied if each not in row.name.told}
        told = {name: value for name, value in (row.name.told | more).items() if name != key}
        return dataclasses.replace(row.name, told=told).text(self.keys, seed=False)


def tabulate(runs: Sequence[RunRecord]) -> Report:
    """Return the report on some runs; only finished ones count for a group's mean and rank."""
    every = _by_budget(runs, differences(runs))
    names = names_of(runs, every)
    varied = varied_keys(names, every)
    left_out = len(every) - MOST_KEYS
    ordered = dict.fromkeys([*varied, *every])
    differing = {key: every[key] for key in itertools.islice(ordered, MOST_KEYS)}
    tokenizers, texts = {run.tokenizer for run in runs} - {None}, {run.data_hash for run in runs} - {None}
    tasks = _tasks(runs) or [CausalLM()]
    figures = figures_of({name for task in tasks for name in task.metrics})
    target = target_of(tasks)
    score = _score(tasks[0], figures, len(tokenizers)).over(target)
    kept = [kept_scores(run.path) for run in runs]
    scored = sorted({name for each in kept for name in each})
    figures |= of_tasks(scored[:MOST_SCORES])
    rows = [
        _row(run, names[i], {key: values[i] for key, values in differing.items()}, figures, kept[i])
        for i, run in enumerate(runs)
    ]
    by_run = {id(row.run): row for row in rows}
    groups = [[by_run[id(run)] for run in group] for group in same_but_seed(runs)]
    for group in groups:
        group.sort(key=lambda row: -len(row.name.told))  # a group is called as its sweep calls it
    tell_apart([[(row.name, row.run) for row in group] for group in groups])
    for group in groups:
        values = scores_of_seeds(group, score)
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
    if len(scored) > MOST_SCORES:
        more = len(scored) - MOST_SCORES
        notes.append(f"{more:,} more scores of tasks are in the runs' tasks; the table has the first {MOST_SCORES}.")
    notes += _flattery(groups, score)
    rows = [row for group in groups for row in group]
    varied = [key for key in varied if key in differing]
    report = Report(rows, short(list(differing)), varied, figures, score, target, notes)
    _weigh(report)
    return report


def _weigh(report: Report) -> None:
    """Add what each key of a search matters for its trials, and a note of it.

    Trials that have finished come first, by their scores; those that were pruned come by how far they got, then by
    their last scores, as the pruner had them; those with no finite score come last.
    """
    searches: dict[str, list[Row]] = {}
    for row in report.rows:
        if row.run.status in ("finished", "pruned") and (where := search_of(row.run)) is not None:
            searches.setdefault(str(where), []).append(row)

    def outcome(row: Row) -> tuple[bool, bool, float, float]:
        score, pruned = finite(row.figures[report.score.key]), row.run.status == "pruned"
        if score is None:
            return True, pruned, 0.0, 0.0
        return False, pruned, -float(row.figures["steps"] or 0) if pruned else 0.0, report.score.sign * score

    for folder, trials in searches.items():
        values = {key: [row.asked[key] for row in trials] for key in report.varied if key != "seed"}
        if found := importance(values, list(map(outcome, trials))):
            report.importance[folder] = found
            shares = ", ".join(f"{report.keys[key]} {share:.0%}" for key, share in found.items())
            named = f"the search {Path(folder).name}" if len(searches) > 1 else "the search"
            what = f"of the variance of their ranks by {report.score.head}, each key alone"
            report.notes.append(f"Importance in {named}, {len(trials)} trials: {shares} ({what}).")


def scores_of_seeds(rows: Sequence[Row], score: Metric) -> list[float]:
    """Return the final scores of the finished runs, one of each seed: the mean where a seed was run again.

    Where a sweep has run its best config again with fresh seeds, these alone count: those it was chosen by were lucky.
    """
    by_seed: dict[str, list[float]] = {}
    confirming = [row for row in rows if confirms(row.run)]
    for row in confirming or rows:
        value = row.figures[score.key]
        if row.run.status == "finished" and value is not None and math.isfinite(value):
            by_seed.setdefault(repr(row.run.config.get("seed")), []).append(value)
    return [statistics.fmean(values) for values in by_seed.values()]


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


def _row(run: RunRecord, name: Name, asked: dict[str, Any], shown: dict[str, Figure], kept: dict[str, float]) -> Row:
    curves = read_curves(run)
    steps = int(run.figure("steps") or curves.steps)
    tokens = int(run.figure("tokens") or curves.tokens_at(steps))
    otherwise = {
        "steps": steps,
        "tokens": tokens,
        "flops": tokens * curves.flops_per_token if curves.flops_per_token else None,
        "seconds": finite(curves.seconds_at([steps])[0]),
    }
    otherwise |= {key: curves.last(each.metric.name) for key, each in shown.items() if each.metric}
    figures = {key: run.figure(key, otherwise[key]) if key in otherwise else kept.get(key) for key in shown}
    return Row(run, name, curves, asked, figures | {"steps": steps, "tokens": tokens})


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


def _flattery(groups: Sequence[Sequence[Row]], score: Metric) -> list[str]:
    """Return a note on the best of several groups: it was chosen for its luck, too."""
    ended = [group for group in groups if group[0].mean is not None]
    if len(ended) < 3 or any(confirms(row.run) for row in ended[0]):
        return []
    deviation = pooled_deviation([scores_of_seeds(group, score) for group in ended])
    share = expected_best(len(ended)) / math.sqrt(ended[0][0].seeds)
    much = f"{share:.2f} deviations of a seed"
    if deviation is None:
        much += ", which is not known here"
    else:
        much += f" ({score.text(share * deviation, precise=True)})"
    note = f"The best of {len(ended)} was lucky, too: run again, expect it to be worse by up to {much}."
    return [note]


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
