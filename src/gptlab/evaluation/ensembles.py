"""Score several runs together: the probability of each token is the mean of what they give it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptlab.data.config import TEXT, BatchConfig
from gptlab.errors import UserError, require
from gptlab.evaluation.held_out import HeldOutData, Sliding, held_out_data
from gptlab.evaluation.model import load_with_task, require_next_tokens
from gptlab.evaluation.perplexity import Nats, described, scored, target_nats
from gptlab.evaluation.precision import weight_bytes
from gptlab.registry import name_of
from gptlab.runs.alike import holds_out_the_same, require_distinct, require_one_tokenizer
from gptlab.runs.run_dir import RunDir, located
from gptlab.tasks.base import Task


def evaluate_together(
    runs: Sequence[RunDir],
    data: BatchConfig | None = None,
    context: int | None = None,
    batch_size: int = 16,
    sliding: Sliding | None = None,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Score the ensemble of several runs on what all of them hold out, or on a data option, in windows of `context`.

    Returns what `gptlab.evaluation.perplexity.evaluate` does, of the ensemble, and the scores of each run by itself as
    `members`. One model is in memory at a time. Raises UserError where the runs read the text in different ways.
    """
    _require_alike(runs)
    if data is None:
        require_same_text(runs)
    size = 0
    first: tuple[Task, HeldOutData] | None = None
    costs: list[Nats] = []
    for run in runs:
        task, gpt, tokenizer = load_with_task(run, precision)
        found = held_out_data(run, task, gpt.config, tokenizer, data, context, sliding)
        first = first or (task, found)
        _require_read_alike(run, found, runs[0], first[1])
        size += weight_bytes(gpt)
        costs.append(np.concatenate([*target_nats(gpt, task, found.examples, batch_size, found.reading)]))
    assert first is not None
    task, found = first
    members = [{"run": located(run), **_scores(task, nats, found)} for run, nats in zip(runs, costs, strict=True)]
    scores = _scores(task, mixed(costs), found)
    computed = {"precision": precision, "weight_bytes": size}
    return {**scores, **described(runs[0], task, found, len(costs[0])), **computed, "members": members}


def mixed(costs: Sequence[Nats]) -> Nats:
    """Return the cost of each target, (N,), in nats, under the mean of the probabilities that several models give it.

    That is -log(1/M sum exp(-cost)), computed without leaving the logarithms.
    """
    return np.log(len(costs)) - np.logaddexp.reduce([-nats for nats in costs])


def _scores(task: Task, nats: Nats, found: HeldOutData) -> dict[str, Any]:
    return scored(task, {"nats": nats.sum(), "targets": len(nats)}, found)


def _require_alike(runs: Sequence[RunDir]) -> None:
    """Refuse runs that give no probabilities of the same tokens."""
    require_distinct("run", runs)
    require_one_tokenizer("run", runs)
    first = require_next_tokens(runs[0])
    for run in runs:
        task = require_next_tokens(run)
        why = f"its task is {name_of(task)}, and that of {runs[0].path} is {name_of(first)}"
        same = task == first or (_of_text(task) and _of_text(first))
        require(same, "run", run.path, why, "score runs of one task together")


def _of_text(task: Task) -> bool:
    """Tell whether a task is scored on all of a text: distillation is, as causal language modelling."""
    return TEXT in task.learns_from


def require_same_text(runs: Sequence[RunDir]) -> None:
    """Refuse runs that hold out different texts."""
    for run in runs:
        same = holds_out_the_same(run, runs[0]) or not run.has_held_out()  # which is told when it is scored
        why, todo = f"holds out other text than {runs[0].path}", "say which: data=text data.files=[...]"
        require(same, "run", run.path, why, todo)


def _require_read_alike(run: RunDir, found: HeldOutData, other: RunDir, theirs: HeldOutData) -> None:
    for key, value in found.protocol.items():
        if theirs.protocol.get(key) != value:
            why = f"reads the text with {key} {value}, and {other.path} with {key} {theirs.protocol.get(key)}"
            todo = f"give block_size={min(value, theirs.protocol[key])}" if key == "block_size" else "leave it out"
            raise UserError("run", run.path, why, todo)
