"""Write the mean of the weights of several runs, or of several checkpoints of one, as a run."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.checksums import list_files
from gptlab.errors import UserError, require
from gptlab.files import new_folder
from gptlab.model.gpt import num_weights
from gptlab.registry import name_of
from gptlab.runs.alike import holds_out_the_same
from gptlab.runs.config_file import write_config
from gptlab.runs.run_dir import RunDir, located

Load = Callable[[RunDir], Any]


def write_mean(runs: Sequence[RunDir], load: Load, shares: Sequence[float], out: Path) -> dict[str, Any]:
    """Write the model whose weights are a mean of those of `runs` as the run `out`, completely or not at all.

    Each counts by its share; they add up to 1. `load` returns the model of a run with the head of its task. Settings
    in which all runs agree are kept, and so is what they hold out, if that is the same. Returns the run's summary.
    """
    places = [located(run) for run in runs]
    for place in places:
        require("${" not in place, "runs", place, "has ${ in it, which config.yaml cannot hold", "rename the folder")
    saved, parameters = _mean(runs, load, shares)
    folders = ["tokenizer", *(["held_out"] if all(holds_out_the_same(run, runs[0]) for run in runs) else [])]
    with new_folder(out) as work:
        (work / "checkpoints").mkdir()
        torch.save(saved, work / "checkpoints/last.ckpt")
        for name in folders:
            shutil.copytree(runs[0].path / name, work / name, ignore=shutil.ignore_patterns(".*"))
        for name in ("checkpoints", *folders):
            list_files(work / name)
        note = {"averaged_from": places, "shares": list(shares)}
        write_config(work / "config.yaml", {**_common([run.config() for run in runs]), "name": out.name, **note})
        summary = {"status": "finished", "parameters": parameters, "steps": 0, **note}
        return RunDir(work).write_summary(summary)


def _mean(runs: Sequence[RunDir], load: Load, shares: Sequence[float]) -> tuple[dict[str, Any], int]:
    """Return a checkpoint with the mean of the weights, which is computed in float64, and their number.

    One model and the mean are in memory at a time. Raises UserError where two runs have different models, or one has
    weights that are not finite.
    """
    total: dict[str, Tensor] = {}
    model: Any = None
    for run, share in zip(runs, shares, strict=True):
        before, model = model, load(run)
        if before is not None:
            _require_same_model(run, model.config, runs[0], before.config)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                why, todo = f"its {name} is not finite everywhere", "take a checkpoint from before it diverged"
                require(bool(value.isfinite().all()), "runs", run.path, why, todo)
                total[name] = total.get(name, 0) + share * value.double()
            elif not torch.equal(total.setdefault(name, value), value):
                raise UserError("runs", run.path, f"its {name} is another one", "name runs of one model")
    stored: dict[tuple[int, torch.Size], Tensor] = {}  # weights that are tied are one tensor
    weights = {
        f"gpt.{name}": stored.setdefault((value.data_ptr(), value.shape), total[name].to(value.dtype))
        for name, value in model.state_dict().items()
    }
    saved = {"model": asdict(model.config), "model_option": name_of(model.config), "state_dict": weights}
    return saved, num_weights(model)


def _require_same_model(run: RunDir, own: Any, other: RunDir, theirs: Any) -> None:
    names, todo = (name_of(own), name_of(theirs)), "name runs of one model"
    require(names[0] == names[1], "runs", run.path, f"is a {names[0]}, and {other.path} a {names[1]}", todo)
    expected = asdict(theirs)
    for key, value in asdict(own).items():
        why = f"has model.{key}={value}, and {other.path} has {expected.get(key)}"
        require(value == expected.get(key), "runs", run.path, why, todo)


def _common(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the settings of the first config, without those that are others elsewhere."""
    first, *others = configs
    parts = [config["parts"] for config in others]
    same = {key: value for key, value in first.items() if all(config.get(key) == value for config in others)}
    return {**same, "parts": {k: v for k, v in first["parts"].items() if all(each.get(k) == v for each in parts)}}
