"""Write what LoRA or DoRA has trained as the `peft` library loads it, beside the model that it was trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gptlab.errors import UserError, require
from gptlab.files import new_folder
from gptlab.interop.families import FAMILIES
from gptlab.interop.names import config_to, weights_of
from gptlab.model.adapters import DoRA, LoRA
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.model.meta_device import on_meta
from gptlab.registry import name_of
from gptlab.runs.adapted import read_adapter
from gptlab.runs.checkpoint_file import read_checkpoint
from gptlab.runs.run_dir import RunDir

ROOT = "base_model.model."  # before the names of a model in peft


def export_adapter(run: RunDir, out: Path) -> dict[str, Any]:
    """Write adapter_config.json and adapter_model.safetensors into the new directory `out`, whole or not at all.

    Returns the number of parameters; raises UserError where the run has no LoRA, or peft has no such adapter.
    """
    saved = read_checkpoint(run.checkpoint)
    todo = "leave adapter out, to export the whole model"
    require("adapter" in saved, "run", run.path, "has no adapter", todo)
    adapter, base = read_adapter(saved, run.config())
    why = f"was trained with adapter={name_of(adapter)}, which peft does not have"
    if not isinstance(adapter, LoRA):
        raise UserError("run", run.path, why, todo)
    config = GPTConfig(**saved["model"])
    why = f"was trained on a model with parametrization={config.parametrization}, which peft does not know"
    require(config.parametrization == "standard", "run", run.path, why, todo)
    weights = {name.removeprefix("gpt."): value for name, value in saved["state_dict"].items()}
    other = sorted(name for name in weights if ".lora_" not in name or name not in _names(config, adapter))
    why = f"has trained {', '.join(other[:3])} too, which is no part of a LoRA"
    require(not other, "run", run.path, why, todo)
    source = RunDir.find(base.path).config()
    hf = config_to(config, run.config().get("model_type") or source.get("model_type"))
    tensors = _tensors(config, adapter, weights, hf)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": source.get("imported_from"),
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "use_dora": isinstance(adapter, DoRA),
        "bias": "none",
        "fan_in_fan_out": FAMILIES[hf["model_type"]].transposed,
        "target_modules": sorted({name.rpartition(".lora_")[0] for name in tensors}),
        "inference_mode": True,
    }
    with new_folder(out) as work:
        named = {f"{ROOT}{name}": tensor for name, tensor in tensors.items()}
        save_file(named, work / "adapter_model.safetensors", metadata={"format": "pt"})
        (work / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return {"architecture": "LoRA", "parameters": sum(each.numel() for each in tensors.values())}


def _names(config: GPTConfig, adapter: LoRA) -> set[str]:
    with on_meta():
        return set(adapter.attach(GPT(config)))


def _tensors(
    config: GPTConfig, adapter: LoRA, weights: Mapping[str, Tensor], hf: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the factors of each layer of the family, and the lengths of rows, by the names that peft has.

    Where one layer of ours is several of theirs, such as queries, keys and values, these share A, and each has its rows
    of B. Rows are divided and put in order as those of the weights are: B and the lengths go through the same
    conversion, as the first columns of weights.
    """
    family = FAMILIES[hf["model_type"]]
    found: dict[str, Tensor] = {}
    layers = dict.fromkeys(name.rpartition(".lora_")[0] for name in weights)
    for layer in layers:
        module = layer.split(".", 2)[2] if layer.startswith("blocks.") else layer
        why = f"{layer} is half of a layer of {family.model_type}"
        require(module not in family.halves, "adapter", name_of(adapter), why, "export the whole model: adapter=merge")
    for kind in ("lora_b", "lora_magnitude"):
        columns = {name: w.reshape(len(w), -1) for name in layers if (w := weights.get(f"{name}.{kind}")) is not None}
        for name, rows in _converted(config, columns, dict(hf), family.transposed).items():
            if kind == "lora_magnitude":
                found[f"{name}.lora_magnitude_vector"] = rows[:, 0].contiguous()
            else:
                found[f"{name}.lora_B.weight"] = rows.contiguous()
    for layer in layers:
        for theirs in family.theirs(f"{layer}.weight"):
            full = theirs if family.is_head(theirs) else family.root + theirs
            found[f"{full.removesuffix('.weight')}.lora_A.weight"] = weights[f"{layer}.lora_a"].clone()
    return found


def _converted(
    config: GPTConfig, columns: Mapping[str, Tensor], hf: dict[str, Any], transposed: bool
) -> dict[str, Tensor]:
    """Return columns of layers of ours, (out, n) each, as those of the layers of a family."""
    with on_meta():
        gpt = GPT(config)
    layers = dict(gpt.named_modules())
    widths: dict[int, int] = {}
    for name, each in columns.items():
        layer = layers[name]
        assert isinstance(layer, nn.Linear)
        fits = each.shape[1] <= layer.in_features
        why = f"is more than the width {layer.in_features} of {name}"
        require(fits, "adapter.rank", each.shape[1], why, "export the whole model: adapter=merge")
        weight = torch.zeros(layer.out_features, layer.in_features)
        weight[:, : each.shape[1]] = each
        layer.weight = nn.Parameter(weight)
        widths[id(layer)] = each.shape[1]
    n = max(widths.values(), default=0)
    found = {}
    for name, tensor in weights_of(gpt, hf).items():
        if tensor.is_meta or not name.endswith(".weight"):
            continue
        rows = tensor.T if transposed and not FAMILIES[hf["model_type"]].is_head(name) else tensor
        found[name.removesuffix(".weight")] = rows[:, :n]
    return found
