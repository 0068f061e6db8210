"""Read checkpoints that hold only what an adapter has trained: the rest is in the model that it began with."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import require
from gptlab.model.adapters import Adapter, adapt
from gptlab.model.config import build_model
from gptlab.model.lora import merge
from gptlab.model.meta_device import on_meta
from gptlab.plugins import recorded_option
from gptlab.registry import name_of
from gptlab.runs.checkpoint_file import read_checkpoint

HEAD = "lm_head.weight"  # which a model lacks whose task has a head in its place


@dataclass(frozen=True)
class Base:
    """The model that an adapter was trained on: the run that holds it, and the SHA-256 of its weights."""

    path: str
    sha256: str


def describe(adapter: Adapter, base: Base) -> dict[str, Any]:
    """Return what a checkpoint says of its adapter, as plain values."""
    return {"option": name_of(adapter), "values": asdict(adapter), "base": asdict(base)}


def read_adapter(saved: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Adapter, Base]:
    """Return what `describe` has put into a checkpoint.

    Raises UserError where the adapter is not an option here, by the run's config, and others where it is damaged.
    """
    found = saved["adapter"]
    kind = recorded_option("adapter", found["option"], config, ascii(found["option"])[:60])
    base = Base(str(found["base"]["path"]), str(found["base"]["sha256"]))
    return kind(**found["values"]), base


def trunk_weights(weights: Mapping[str, Tensor], names: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a model by its own `names`, whatever head stands around it in a checkpoint."""
    first = next(name for name in names if name != HEAD)
    before = min((name.removesuffix(first) for name in weights if f".{name}".endswith(f".{first}")), key=len)
    inner = {name.removeprefix(before): value for name, value in weights.items() if name.startswith(before)}
    return {name: inner[name] for name in names if name in inner}


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the weights of a model, by their names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def require_base(found: str, base: Base, key: str, value: Any) -> None:
    """Refuse another model than the one that an adapter was trained on."""
    why = f"its adapter was trained on weights with SHA-256 {base.sha256[:12]}, and {base.path} has {found[:12]}"
    require(found == base.sha256, key, value, why, "put back the model that it was trained on")


def base_model(checkpoint: Path, config: Mapping[str, Any], base: Base, run: Path) -> tuple[Any, list[str]]:
    """Return the model that a run's adapter was trained on, of a checkpoint, and the names of weights that it lacks.

    Raises UserError, which names the run, where it is another model, and others where it is damaged.
    """
    saved = read_checkpoint(checkpoint)
    require(
        "adapter" not in saved, "run", run, f"{base.path} is an adapter itself", "put back the model of its adapter"
    )
    gpt = _empty(str(saved.get("model_option", "gpt")), saved["model"], config)
    weights = trunk_weights({k.removeprefix("gpt."): v for k, v in saved["state_dict"].items()}, gpt.state_dict())
    require_base(weights_sha256(weights), base, "run", run)
    missing = gpt.load_state_dict(weights, strict=False, assign=True).missing_keys
    if missing == [HEAD]:
        gpt.lm_head.to_empty(device="cpu")
    elif missing:
        raise RuntimeError(f"{base.path} has no {missing[0]}")
    if getattr(gpt.config, "tied", False):
        gpt.tie()
        missing = []
    return gpt, missing


def _empty(option: str, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    kind = recorded_option("model", option, config, ascii(option)[:60])
    with on_meta():
        return build_model(kind(**settings))


def merged(
    adapter: Adapter, base: tuple[Any, list[str]], weights: Mapping[str, Tensor], head: Callable[[Any], Any]
) -> Any:
    """Return a base model (`base_model`) with a task's head and what an adapter has trained, as a plain model.

    Raises RuntimeError where the weights are not those that the adapter trains.
    """
    gpt, new = base
    model = head(gpt)
    trained = adapt_with(model, adapter, new)
    if set(trained) != set(weights):
        odd = sorted(set(trained).symmetric_difference(weights))
        raise RuntimeError(f"{odd[0]} is not what its adapter trains, or is missing")
    model.load_state_dict(dict(weights), strict=False)
    return merge(model)


def adapt_with(model: Any, adapter: Adapter, new: Sequence[str]) -> list[str]:
    """Attach an adapter to a model with a head; weights that the base lacks, by their names in it, are trained too."""
    names = [name for name, _ in model.named_parameters() if any(f".{name}".endswith(f".{each}") for each in new)]
    return adapt(model, adapter, names)
