"""Compare runs on the items of a task, each item under both: the difference, its interval, and McNemar's test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.errors import require
from gptlab.evaluation.compared import SIDES, Asked, Compared, Comparison, Sides, result_of, runs_of
from gptlab.evaluation.eval_task import EvalTask
from gptlab.evaluation.statistics import mcnemar, paired_bootstrap
from gptlab.evaluation.task_evaluation import score_tasks
from gptlab.evaluation.task_scores import ItemScores
from gptlab.metrics import metric


@dataclass(frozen=True)
class TaskScored(Compared):
    """A run of one side, and its figures of the items of a task."""

    items: ItemScores


def compare_tasks(sides: Sides, asked: Asked, tasks: Sequence[EvalTask]) -> dict[str, Comparison]:
    """Compare side b with side a, each a run or several seeds of one config, on each task, by its name.

    `asked.by` is a metric that all of the tasks have; None: the main one of each, acc or rougeL.
    """
    runs = runs_of(sides)
    for task in tasks:
        why = f"{len(task.items)} item is not enough to tell how sure a difference is"
        require(len(task.items) > 1, "tasks", task.name, why, "give more")
    how = asked.block_size, asked.batch_size, asked.max_new_tokens, asked.chat
    scored = [score_tasks(run, tasks, *how, key=side) for side, run in runs]
    found = {}
    for number, task in enumerate(tasks):
        own = [each[number] for each in scored]
        every = [TaskScored(side, run, items) for (side, run), (items, _) in zip(runs, own, strict=True)]
        found[task.name] = _comparison(task, every, [protocol for _, protocol in own], asked)
    return found


def _comparison(
    task: EvalTask, every: Sequence[TaskScored], protocols: Sequence[dict[str, Any]], asked: Asked
) -> Comparison:
    by = asked.by or every[0].items.main
    for each in every:
        todo = f"choose one of {', '.join(each.items.values)}"
        require(by in each.items.values, "metric", by, f"the task {task.name} has no such metric", todo)
    which = metric(f"tasks/{by}")
    sizes = every[0].items.sizes(by)
    values = {side: np.mean([each.items.values[by] for each in every if each.side == side], axis=0) for side in SIDES}
    difference = paired_bootstrap(values["a"], values["b"], sizes, asked.resamples, asked.seed)
    what = {
        "task": task.name,
        "units": {"what": f"{len(sizes):,} items", "number": len(sizes)},
        "items_sha256": task.sha256,
        "mcnemar": mcnemar(values["a"], values["b"]) if by.startswith("acc") and len(every) == 2 else None,
    }
    scores = [each.items.scores() for each in every]
    stored = [
        each.stored(score, protocol, task.sha256)
        for each, score, protocol in zip(every, scores, protocols, strict=True)
    ]
    result = result_of(which, difference, what, every, [score[by] for score in scores], stored, asked)
    return Comparison(every, result, {**{f"{by}_{side}": each.tolist() for side, each in values.items()}})
