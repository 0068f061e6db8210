"""Find what the model that a run began with makes of the answers of pairs: stored with the run, or computed again."""

import functools
from typing import Any

import torch
from torch import Tensor

from gptlab.data.batches.sampler import EvalBatches
from gptlab.errors import UserError, require
from gptlab.model.heads import trunk_of
from gptlab.runs.adapted import weights_sha256
from gptlab.runs.checkpoint_file import not_whole, read_checkpoint
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Reading
from gptlab.tasks.reference import reference_log_probs
from gptlab.tasks.saved import task_of

BATCH = 16  # pairs that are read at once
STATE = "ExampleDataModule"  # the part of a checkpoint


def stored(run: RunDir, pairs: Any) -> Tensor:
    """Return the log-probabilities of a run's held-out pairs that its checkpoint holds, (N, 2)."""
    found = _state(run, "val")
    shape = getattr(found, "shape", None)
    if shape != pairs.reference.shape:
        raise not_whole(run.checkpoint, ValueError(f"its reference is of shape {shape}"))
    return torch.as_tensor(found).float()


def computed(run: RunDir, task: Any, pairs: Any) -> Tensor:
    """Return the log-probabilities of other pairs, (N, 2), by the model that the run began with.

    Raises UserError where that is gone, or has changed.
    """
    name = str(run.config().get("init_from"))
    try:
        source = RunDir.find(name)
        gpt, _ = source.load(task_of(source.config()).head)
    except UserError as error:
        why = f"the model that it began with, which is its reference, is not there ({error.value}: {error.why})"
        raise UserError("run", run.path, why, f"put it back at {name}") from error
    same = weights_sha256(trunk_of(gpt).state_dict()) == _state(run, "sha256")
    why, todo = f"the model that it began with, {name}, has changed since", "put back the one that it began with"
    require(same, "run", run.path, why, todo)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures = functools.partial(task.losses, gpt.to(device), reading=Reading())
    return reference_log_probs(figures, pairs, EvalBatches(len(pairs), min(BATCH, len(pairs))), device)


def _state(run: RunDir, name: str) -> Any:
    try:
        return read_checkpoint(run.checkpoint)[STATE]["reference"][name]
    except (LookupError, TypeError) as error:
        raise not_whole(run.checkpoint, error) from error
