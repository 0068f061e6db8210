"""Tell how well tasks can tell models apart: their scores over the checkpoints of runs, the signal and the noise.

After Heineman et al. 2025, "Signal and Noise": a task whose score moves from one checkpoint to the next by as much as
it differs between models decides nothing.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gptlab.evaluation.eval_task import EvalTask
from gptlab.evaluation.lm_eval_tasks import LmEvalTasks, score_with_lm_eval
from gptlab.evaluation.task_evaluation import score_tasks
from gptlab.evaluation.task_scores import ItemScores
from gptlab.runs.run_dir import RunDir, located

Curve = dict[int, float]  # from steps to scores


def task_curves(
    runs: Sequence[RunDir],
    tasks: Sequence[EvalTask],
    of_lm_eval: LmEvalTasks,
    last: int,
    block_size: int | None = None,
    batch_size: int = 16,
    max_new_tokens: int = 64,
    chat: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return, by task and metric, the score at each checkpoint of each run, and what they say of the task."""
    asked = block_size, batch_size, max_new_tokens, chat
    found: dict[str, dict[str, dict[str, Curve]]] = {}  # by task, metric and run
    for run in runs:
        for step, path in run.by_step().items():
            for task, items in _scored(RunDir(run.path, path), tasks, of_lm_eval, *asked):
                scores = items.scores()
                for name in items.values:
                    own = found.setdefault(task, {}).setdefault(name, {})
                    own.setdefault(located(run), {})[step] = scores[name]
    return {
        task: {
            name: {"curves": {run: _listed(curve) for run, curve in curves.items()}, **signal_to_noise(curves, last)}
            for name, curves in by_metric.items()
        }
        for task, by_metric in found.items()
    }


def signal_to_noise(curves: Mapping[str, Curve], last: int) -> dict[str, float | None]:
    """Return the signal of a score, its noise, and how many times the noise the signal is; None where that is not told.

    The noise is the standard deviation over the `last` checkpoints of a run, relative to their mean, and the mean of
    that over the runs. The signal between several runs is the largest difference of their means over the `last`
    checkpoints, relative to the mean of these (the paper's relative dispersion); of a single run, which has nothing to
    be compared with, it is the change from its first checkpoint to that mean, relative to the latter.
    """
    ends = [[curve[step] for step in sorted(curve)[-last:]] for curve in curves.values()]
    finals = [statistics.fmean(end) for end in ends]
    middle = statistics.fmean(finals)
    if len(finals) > 1:
        spread = max(finals) - min(finals)
    else:
        (only,) = curves.values()
        spread = abs(middle - only[min(only)])
    if not middle or not all(finals):
        return {"signal": None, "noise": None, "ratio": None}
    noise = statistics.fmean(statistics.stdev(end) / abs(mean) for end, mean in zip(ends, finals, strict=True))
    signal = spread / abs(middle)
    return {"signal": signal, "noise": noise, "ratio": signal / noise if noise else None}


def _scored(
    run: RunDir, tasks: Sequence[EvalTask], of_lm_eval: LmEvalTasks, *asked: Any
) -> Iterator[tuple[str, ItemScores]]:
    own = score_tasks(run, tasks, *asked) if tasks else []
    yield from ((task.name, items) for task, (items, _) in zip(tasks, own, strict=True))
    theirs = score_with_lm_eval(run, of_lm_eval, *asked) if of_lm_eval.names else {}
    yield from ((name, items) for name, (items, *_) in theirs.items())


def _listed(curve: Curve) -> dict[str, list[Any]]:
    steps, scores = zip(*sorted(curve.items()), strict=True)
    return {"steps": list(steps), "scores": list(scores)}
