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


def load_for_decoding(run: RunDir, precision: str, key: str = "run") -> tuple[Any, Tokenizer]:
    """Return the model of a run on the GPU, if there is one, laid out for fast reading, and its tokenizer.

    `precision` is 32-true or bf16-true. Raises UserError where the model predicts no tokens.
    """
    gpt, tokenizer = load_language_model(run, key)
    return laid_out(gpt, precision), tokenizer


def laid_out(gpt: Any, precision: str, device: str | None = None) -> Any:
    """Return a model in eval mode, on a device (None: the GPU, if there is one), laid out for fast reading.

    `precision` is 32-true or bf16-true. The model itself is changed.
    """
    import torch

    from gptlab.decoding.onednn import pack
    from gptlab.model.config import GPTConfig

    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    gpt = gpt.to(device or ("cuda" if torch.cuda.is_available() else "cpu"), dtype).eval()
    if type(gpt.config) is GPTConfig:  # another model may do more with a layer than call it
        pack(gpt)
    return gpt
