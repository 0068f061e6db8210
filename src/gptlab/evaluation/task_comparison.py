"""Compare runs on the items of a task, each item under both: the difference, its interval, and McNemar's test."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.errors import require
from gptlab.evaluation.compared import SIDES, Asked, Compared, Comparison, Sides, result_of, runs_of
from gptlab.evaluation.eval_task import EvalTask
from gptlab.evaluation.lm_eval_tasks import LmEvalTasks, score_with_lm_eval
from gptlab.evaluation.statistics import mcnemar, paired_bootstrap
from gptlab.evaluation.task_evaluation import metrics_of, score_tasks
from gptlab.evaluation.task_scores import Array, ItemScores
from gptlab.metrics import HIGHER
from gptlab.runs.run_dir import RunDir


@dataclass(frozen=True)
class TaskScored(Compared):
    """A run of one side, and its figures of the items of a task."""

    items: ItemScores


@dataclass(frozen=True)
class _Task:
    """A task that runs were scored on: for each run the figures of its items, and how they were asked."""

    name: str
    sha256: str  # of the items
    scored: Sequence[tuple[ItemScores, dict[str, Any]]]


def compare_tasks(
    sides: Sides, asked: Asked, tasks: Sequence[EvalTask], of_lm_eval: LmEvalTasks | None = None
) -> dict[str, Comparison]:
    """Compare side b with side a, each a run or several seeds of one config, on each task, by its name.

    `asked.by` is a metric that all of the tasks have; None: the main one of each, acc or rougeL. Groups of lm-eval are
    compared task by task.
    """
    runs = runs_of(sides)
    for task in tasks:  # before a model is asked
        _require_several(task.name, len(task.items))
        _require_metric(task.name, asked.by, metrics_of(task))
    how = asked.block_size, asked.batch_size, asked.max_new_tokens, asked.chat
    every: list[_Task] = []
    if tasks:
        scored = [score_tasks(run, tasks, *how, key=side) for side, run in runs]
        every += [_Task(task.name, task.sha256, own) for task, *own in zip(tasks, *scored, strict=True)]
    if of_lm_eval is not None and of_lm_eval.names:
        theirs = [score_with_lm_eval(run, of_lm_eval, *how, key=side) for side, run in runs]
        every += [_Task(name, items, [each[name][:2] for each in theirs]) for name, (*_, items) in theirs[0].items()]
    return {task.name: _comparison(task, runs, asked) for task in every}


def _comparison(task: _Task, runs: Sequence[tuple[str, RunDir]], asked: Asked) -> Comparison:
    every = [TaskScored(side, run, items) for (side, run), (items, _) in zip(runs, task.scored, strict=True)]
    by = asked.by or every[0].items.main
    for each in every:
        _require_metric(task.name, by, each.items.values)
    which, sizes = every[0].items.metric(by), every[0].items.sizes(by)
    _require_several(task.name, len(sizes))
    values = {side: np.mean([each.items.values[by] for each in every if each.side == side], axis=0) for side in SIDES}
    difference = paired_bootstrap(values["a"], values["b"], sizes, asked.resamples, asked.seed)
    right_or_wrong = len(every) == 2 and by not in every[0].items.weights and _is_binary(*values.values())
    what = {
        "task": task.name,
        "units": {"what": f"{len(sizes):,} items", "number": len(sizes)},
        "items_sha256": task.sha256,
        "mcnemar": mcnemar(values["a"], values["b"]) if right_or_wrong and which.better == HIGHER else None,
    }
    scores = [each.items.scores() for each in every]
    stored = [
        each.stored(score, protocol, task.sha256)
        for each, score, (_, protocol) in zip(every, scores, task.scored, strict=True)
    ]
    result = result_of(which, difference, what, every, [score[by] for score in scores], stored, asked)
    return Comparison(every, result, {**{f"{by}_{side}": each.tolist() for side, each in values.items()}})


def _is_binary(*values: Array) -> bool:
    return all(np.isin(each, (0.0, 1.0)).all() for each in values)


def _require_metric(task: str, by: str | None, names: Iterable[str]) -> None:
    known = list(names)
    ok, todo = by is None or by in known, f"choose one of {', '.join(known)}"
    require(ok, "metric", by, f"the task {task} has no such metric", todo)


def _require_several(task: str, items: int) -> None:
    why = f"{items} item is not enough to tell how sure a difference is"
    require(items > 1, "tasks", task, why, "give more")
