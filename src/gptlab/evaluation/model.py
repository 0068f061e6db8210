"""Load the model of a run with the head of its task."""

from typing import Any

from gptlab.errors import UserError
from gptlab.evaluation.precision import in_precision
from gptlab.registry import name_of
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Task
from gptlab.tasks.saved import task_of
from gptlab.tokenizers import Tokenizer


def load_with_task(run: RunDir, precision: str = "32-true") -> tuple[Task, Any, Tokenizer]:
    """Return a run's task, its model with the task's head, in eval mode, and its tokenizer."""
    task = task_of(run.config())
    gpt, tokenizer = run.load(task.head)
    return task, gpt if precision == "32-true" else in_precision(gpt, precision, fast=False), tokenizer


def require_next_tokens(run: RunDir, key: str = "run") -> Task:
    """Return a run's task; raises UserError, which names `key`, if its model does not predict the next token."""
    task = task_of(run.config())
    if not task.predicts_tokens:
        why, todo = (
            f"its task, {name_of(task)}, does not predict the next token",
            "see its scores in gptlab evaluate and report",
        )
        raise UserError(key, run.path, why, todo)
    return task


def load_language_model(run: RunDir, key: str = "run") -> tuple[Any, Tokenizer]:
    """Return the model of a run, in eval mode, and its tokenizer; raises UserError where it predicts no tokens."""
    return run.load(require_next_tokens(run, key).head)


def load_for_decoding(run: RunDir, precision: str, key: str = "run") -> tuple[Any, Tokenizer]:
    """Return the model of a run on the GPU, if there is one, laid out for fast reading, and its tokenizer.

    `precision` is one of PRECISIONS. Raises UserError where the model predicts no tokens, or has no such precision.
    """
    gpt, tokenizer = load_language_model(run, key)
    return in_precision(gpt, precision, fast=True), tokenizer
