"""Load the model of a checkpoint; finding and describing a run does not need torch, this does."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.model.meta_device import on_meta
from gptlab.runs.adapted import base_model, merged, read_adapter
from gptlab.runs.checkpoint_file import not_whole, read_checkpoint, require_stored, verify
from gptlab.runs.own_model import own_model


def load_model(
    checkpoint: Path, head: Callable[[Any], Any], config: Callable[[], dict[str, Any]], find: Callable[[str], Any]
) -> Any:
    """Load the model of a checkpoint in eval mode, with a task's head; `config` reads what its run is.

    Where it holds an adapter alone, `find` returns the run that holds the rest, and the two are merged. Raises
    UserError where it is damaged.
    """
    if note := verify(checkpoint):
        print(f"warning: {note}", file=sys.stderr)
    saved = read_checkpoint(checkpoint)
    try:
        option, settings = str(saved.get("model_option", "gpt")), saved["model"]
        weights = {k.removeprefix("gpt."): v for k, v in saved["state_dict"].items()}
        require_stored(weights)
        model = _gpt(settings, weights, head) if option == "gpt" and "adapter" not in saved else None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise not_whole(checkpoint, error) from error
    if "adapter" in saved:
        model = _adapted(checkpoint, saved, weights, head, config(), find)
    elif model is None:
        model = own_model(option, settings, weights, head, checkpoint, config())
    return model.eval()


def _adapted(
    checkpoint: Path,
    saved: dict[str, Any],
    weights: dict[str, Any],
    head: Callable[[Any], Any],
    config: dict[str, Any],
    find: Callable[[str], Any],
) -> Any:
    """Return the model that an adapter was trained on, with the adapter merged."""
    path = checkpoint.parent.parent
    try:
        adapter, base = read_adapter(saved, config)
        try:
            run = find(base.path)
            verify(run.checkpoint)
        except UserError as error:
            why = f"the model that its adapter was trained on is not whole ({error.value}: {error.why})"
            raise UserError("run", path, why, f"put it back at {base.path}") from error
        return merged(adapter, base_model(run.checkpoint, run.config(), base, path), weights, head)
    except UserError:
        raise
    except Exception as error:  # whatever damaged values make of the code that reads them
        raise not_whole(checkpoint, error) from error


def _gpt(settings: dict[str, Any], weights: dict[str, Any], head: Callable[[Any], Any]) -> Any:
    """Return the GPT of a checkpoint, with a head; raises ValueError and others where it is damaged."""
    config = GPTConfig(**settings)
    if config.n_layer > len(weights):  # before so many layers are made
        raise ValueError(f"n_layer={config.n_layer}, but there are only {len(weights)} tensors")
    with on_meta():
        gpt = GPT(config)
        model = head(gpt)
        tied = getattr(getattr(gpt, "lm_head", None), "weight", None) is gpt.wte.weight
    model.load_state_dict(weights, assign=True)
    if tied:
        gpt.tie()
    return model
