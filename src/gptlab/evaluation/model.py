"""Load the model of a run with the head of its task."""

from typing import Any

from gptlab.errors import UserError
from gptlab.registry import name_of
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Task
from gptlab.tasks.saved import task_of
from gptlab.tokenizers import Tokenizer


def load_with_task(run: RunDir) -> tuple[Task, Any, Tokenizer]:
    """Return a run's task, its model with the task's head, in eval mode, and its tokenizer."""
    task = task_of(run.config())
    return task, *run.load(task.head)


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
