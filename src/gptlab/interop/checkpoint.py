"""Turn a checkpoint of nanoGPT, LitGPT or *Build a Large Language Model (From Scratch)* into a run directory."""

from pathlib import Path
from typing import Any

from gptlab.errors import UserError, reason, require
from gptlab.files import new_folder, require_new
from gptlab.interop import from_scratch, litgpt, nanogpt
from gptlab.interop.importing import weights_from, write_run
from gptlab.interop.places import KINDS, checkpoint_file
from gptlab.interop.state_dict import Checkpoint, Saved, read_saved


def import_checkpoint(name: str, out: Path, n_head: int | None) -> dict[str, Any]:
    """Write the model of a checkpoint into the run directory `out`, completely or not at all.

    The format is told by what the file holds. Returns the run's summary, and what is to be `said`; raises UserError
    where the model cannot be expressed here.
    """
    require_new(out)
    saved = read_saved(checkpoint_file(name))
    try:
        found = _read(saved, n_head)
        weights = weights_from(found.weights, found.config)
    except UserError:
        raise
    except KeyError as error:
        raise UserError("checkpoint", name, f"lacks {error}", "take a whole checkpoint") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = f"cannot be read ({type(error).__name__}: {reason(error)})"
        raise UserError("checkpoint", name, why, "take a whole checkpoint") from error
    model_type = found.weights.family.model_type
    with new_folder(out) as work:
        return {**write_run(work, weights, model_type, found.config, found.tokenizer, name), "said": found.said}


def _read(saved: Saved, n_head: int | None) -> Checkpoint:
    """Return the model, read as the format that the content of a file is of."""
    if not nanogpt.is_one(saved) and not litgpt.is_one(saved) and from_scratch.is_one(saved):
        return from_scratch.read(saved, n_head)
    require(n_head is None, "n_head", n_head, "is for checkpoints that do not say it", "leave it out")
    if nanogpt.is_one(saved):
        return nanogpt.read(saved)
    if litgpt.is_one(saved):
        return litgpt.read(saved)
    keys = ", ".join(map(str, list(saved.content)[:3])) or "nothing"
    raise UserError("checkpoint", saved.path, f"is none that is known here: it holds {keys}", KINDS)
