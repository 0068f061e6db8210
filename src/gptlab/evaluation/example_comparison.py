"""Compare runs of one task example by example, by any of the task's metrics."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gptlab.data.config import EXAMPLES, TEXT, BatchConfig
from gptlab.errors import require
from gptlab.evaluation.compared import SIDES, Asked, Compared, Comparison, Sides, result_of, runs_of
from gptlab.evaluation.held_out import HeldOutData, held_out_data
from gptlab.evaluation.model import load_with_task
from gptlab.evaluation.perplexity import example_sums
from gptlab.evaluation.statistics import Difference, student_level
from gptlab.metrics import Metric, metric
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Sums, Task, target_of
from gptlab.tasks.saved import task_of
from gptlab.tokenizers import fingerprint

FEWEST = 2  # examples that can be drawn from


@dataclass(frozen=True)
class ExampleScores(Compared):
    """A run's sums over each of the common examples, (N, ...) each, and its scores over all of them."""

    sums: Sums
    scores: dict[str, float]
    protocol: dict[str, Any]
    data_hash: str


def compare_examples(sides: Sides, asked: Asked) -> Comparison:
    """Compare side b with side a, each a run or several seeds of one config, on the examples that all hold out.

    `asked.by` is the quantity of one of the task's metrics; None: that which ranks its runs. Raises UserError where the
    runs have different tasks, or too few examples in common.
    """
    runs = runs_of(sides)
    task = _one_task(runs)
    which = _metric(task, asked.by)
    every, left_out = score_examples(runs, asked.data, asked.block_size, asked.batch_size)
    scores = [each.scores[which.quantity] for each in every]
    for each, score in zip(every, scores, strict=True):
        each.require_finite(math.isfinite(score))
    sums = {side: [each.sums for each in every if each.side == side] for side in SIDES}
    difference = bootstrap(task, sums, which.quantity, asked.resamples, asked.seed)
    number = len(every[0].sums["nats"])
    what = {
        "units": {"what": f"{number:,} examples", "number": number},
        "examples": number,
        "examples_left_out": left_out,
    }
    stored = [each.stored(each.scores, each.protocol, each.data_hash) for each in every]
    result = result_of(which, difference, what, every, scores, stored, asked)
    nats = {side: np.mean([_flat(each["nats"]) for each in sums[side]], axis=0).tolist() for side in SIDES}
    return Comparison(every, result, {f"nats_{side}": values for side, values in nats.items()})


def score_examples(
    runs: Sequence[tuple[str, RunDir]], data: BatchConfig | None, block_size: int | None, batch_size: int
) -> tuple[list[ExampleScores], int]:
    """Score the examples that all runs hold out, or those of a data option; returns the number of those left out too.

    `runs` have the names of their sides. Records are common where they are equal; windows of a text only where the runs
    hold out the same text, with one tokenizer, in one way. Raises UserError where there are too few.
    """
    found: list[tuple[Task, Sums, list[str], HeldOutData]] = []
    for _, run in runs:
        task, gpt, tokenizer = load_with_task(run)
        held_out = held_out_data(run, task, gpt.config, tokenizer, data, block_size)
        sums = example_sums(gpt, task, held_out.examples, batch_size, held_out.reading)
        found.append((task, sums, _names(run, held_out), held_out))
    common = Counter(found[0][2])
    for _, _, names, _ in found[1:]:
        common &= Counter(names)
    number, most = common.total(), max(len(names) for _, _, names, _ in found)
    why, todo = (
        f"{number} examples are held out by all of the runs",
        "say which: data=... data.val_fraction=1",
    )
    require(number >= FEWEST, "data", "held-out", why, todo)
    every = []
    for (side, own_run), (task, sums, names, held_out) in zip(runs, found, strict=True):
        rows = torch.tensor(_places(names, common))
        own = {name: values[rows] for name, values in sums.items()}
        scores = task.scores({name: values.sum(0) for name, values in own.items()}, None)
        every.append(ExampleScores(side, own_run, own, scores, held_out.protocol, held_out.data_hash))
    return every, most - number


def bootstrap(task: Task, sides: Mapping[str, Sequence[Sums]], quantity: str, resamples: int, seed: int) -> Difference:
    """Return the score of b less that of a, each the mean over its runs, with its interval over examples drawn again.

    They are drawn with replacement, the same ones for all runs (Efron & Tibshirani 1993). The score is that of the sums
    over what was drawn, so that any metric of the task will do; the percentiles are widened as in paired_bootstrap.
    """
    n = len(next(iter(sides["a"][0].values())))
    generator = np.random.default_rng(seed)
    whole = torch.ones(1, n, dtype=torch.float64)
    value = float(_difference(task, sides, quantity, whole)[0])
    drawn: list[float] = []
    for _ in range(resamples):
        counts = torch.from_numpy(np.bincount(generator.integers(0, n, n), minlength=n)).double()[None]
        drawn += _difference(task, sides, quantity, counts)
    outside = 1 - student_level(n)
    low, high = np.quantile(drawn, [outside / 2, 1 - outside / 2])
    return Difference(value, float(low), float(high))


def by_example(sides: Mapping[str, Sequence[RunDir]], data: BatchConfig | None) -> bool:
    """Tell whether runs are compared by examples: their task predicts no tokens, or they hold out no text."""
    every = [run for runs in sides.values() for run in runs]
    if not all(task_of(run.config()).predicts_tokens for run in every):
        return True
    if data is not None:
        return data.gives == EXAMPLES
    return any(run.holds_out(EXAMPLES) for run in every) and not any(run.holds_out(TEXT) for run in every)


def _flat(values: Tensor) -> Any:
    """Return the total of each example, (N,)."""
    return values.flatten(1).sum(1).numpy() if values.ndim > 1 else values.numpy()


def _one_task(runs: Sequence[tuple[str, RunDir]]) -> Task:
    """Return the task of all runs; raises UserError where they differ: their scores are not the same things."""
    tasks = [task_of(run.config()) for _, run in runs]
    for (side, run), task in zip(runs, tasks, strict=True):
        why = f"its task is {task}, and that of {runs[0][1].path} is {tasks[0]}"
        require(task == tasks[0], side, run.path, why, "compare runs of one task")
    return tasks[0]


def _metric(task: Task, quantity: str | None) -> Metric:
    """Return the metric that runs of a task are compared by: the one asked for, or that which ranks them.

    Raises UserError where the task has no such held-out metric.
    """
    own = [metric(name) for name in task.metrics if name.startswith("val/")]
    asked = metric(task.better)
    if quantity is not None:
        todo = f"choose one of {', '.join(each.quantity for each in own)}"
        found = [each for each in own if each.quantity == quantity]
        require(bool(found), "metric", quantity, "no such metric of the task", todo)
        (asked,) = found
    return asked.over(target_of([task]))


def _difference(task: Task, sides: Mapping[str, Sequence[Sums]], quantity: str, counts: Tensor) -> list[float]:
    """Return the difference for each row of counts (R, N): how often each example was drawn."""
    found: dict[str, list[list[float]]] = {}
    for side, runs in sides.items():
        found[side] = []
        for sums in runs:
            drawn = {name: torch.tensordot(counts, values, 1) for name, values in sums.items()}  # (R, ...)
            each = [{name: values[row] for name, values in drawn.items()} for row in range(len(counts))]
            found[side].append([task.scores(of, None)[quantity] for of in each])
    means = {side: np.mean(values, axis=0) for side, values in found.items()}
    return list((means["b"] - means["a"]).tolist())


def _names(run: RunDir, held_out: HeldOutData) -> list[str]:
    """Return what tells each example from others, over runs."""
    if held_out.records is not None:
        lines = (json.dumps(record, sort_keys=True).encode() for record in held_out.records)
        return [hashlib.sha256(line).hexdigest() for line in lines]
    what = repr((held_out.data_hash, held_out.protocol, fingerprint(run.path / "tokenizer")))
    return [f"{what} {number}" for number in range(len(held_out.examples))]


def _places(names: Sequence[str], common: Counter[str]) -> list[int]:
    """Return the places of the common examples, in an order that is the same for all runs."""
    left, found = Counter(common), list[tuple[str, int]]()
    for place, name in enumerate(names):
        if left[name]:
            left[name] -= 1
            found.append((name, place))
    return [place for _, place in sorted(found)]
