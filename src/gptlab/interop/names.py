"""Translate the config.json and the tensors of a family to ours, and back."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import UserError, require
from gptlab.interop.families import FAMILIES
from gptlab.interop.family import Family, Fields, Naming
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.model.meta_device import on_meta
from gptlab.model.shape import GPTShape

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


def config_from(hf: dict[str, Any]) -> GPTConfig:
    """Return our config for a Hugging Face config.json; raises UserError for what cannot be expressed."""
    kind, quantized = hf.get("model_type"), hf.get("quantization_config") or hf.get("compression_config")
    experts = next((key for key in EXPERTS if hf.get(key)), None)
    require(experts is None, "model_type", kind, "is a mixture of experts", "such models cannot be imported yet")
    if quantized:
        method = quantized.get("quant_method", quantized) if isinstance(quantized, dict) else quantized
        todo = "quantized weights cannot be read; take the original ones"
        raise UserError("quantization_config", method, "its weights are quantized", todo)
    require(kind in FAMILIES, "model_type", kind, "is not known here", f"it can be {', '.join(FAMILIES)}")
    fields = Fields(hf)
    config = FAMILIES[str(kind)].read(fields)
    fields.finish()
    return config


def config_to(
    config: GPTShape, prefer: str | None = None, kinds: Collection[str] = FAMILIES, whose: str = "Hugging Face"
) -> dict[str, Any]:
    """Return the config.json of a family, one of `kinds`, that is this model; `prefer` is tried first.

    Biases that a model lacks are zero in a family that has them. If no family has such a model, a UserError says why.
    """
    config = GPTConfig(**vars(config))
    order = [prefer, *kinds] if prefer in kinds else list(kinds)
    found = []
    for kind in order:
        family = FAMILIES[str(kind)]
        hf = {"model_type": kind, "architectures": [family.architecture], "pad_token_id": None, **family.write(config)}
        with contextlib.suppress(UserError):  # such a model is not in this family
            found.append((hf, config_from(hf)))
    for zeros in (False, True):
        different = [(hf, differences(config, theirs, zeros)) for hf, theirs in found]
        fitting = next((hf for hf, fields in different if not fields), None)
        if fitting is not None:
            return fitting
    hf, ((key, value), *_) = min(different, key=lambda each: len(each[1]))
    mine = getattr(config, key)
    raise UserError(f"model.{key}", mine, f"{whose} has no such model", f"a {hf['model_type']} has {value}")


def differences(mine: GPTConfig, theirs: GPTConfig, zeros: bool) -> list[tuple[str, Any]]:
    """Return the fields, with their values, in which the other model cannot be given the weights of ours.

    With `zeros`, it may have biases that ours lacks: they are zero.
    """
    found = []
    a, b = _meaning(mine), _meaning(theirs)
    for key, value in a.items():
        other = b.get(key, value)  # absent: it has no meaning there, and another field says so
        zero = zeros and key in ("bias", "qkv_bias", "proj_bias", "head_bias") and other and not value
        scaled = key == "qk_norm_eps" and value is None
        close = isinstance(value, float) and isinstance(other, float) and math.isclose(value, other, rel_tol=1e-12)
        if key == "full_attention_every" and mine.window_layers is not None:
            key = "window_layers"
        if not (value == other or zero or scaled or close):
            found.append((key, getattr(theirs, key)))
    return found


def _meaning(config: GPTConfig) -> dict[str, Any]:
    """Return the fields that matter to the logits, with the values that defaults stand for."""
    c, found = config, dataclasses.asdict(config)
    found |= {"n_kv_head": c.kv_heads, "n_inner": 4 * c.n_embd if c.n_inner is None else c.n_inner}
    found |= {"head_size": c.head_dim, "attention_scale": c.attention_scale or c.head_dim**-0.5}
    found |= {key: c.bias if getattr(c, key) is None else getattr(c, key) for key in ("qkv_bias", "proj_bias")}
    without = {"dropout", "init", "base_width", "base_depth", "base_head_size"}
    if not c.qk_norm:
        without |= {"qk_norm_over", "qk_norm_eps"}
    found["full_attention_every"] = [c.has_window(layer) for layer in range(c.n_layer)]
    without.add("window_layers")
    if not any(found["full_attention_every"]):
        found["window"] = None
    if c.positions != "rope":
        without |= {key for key in found if key.startswith("rope_") or key == "no_rope_every"}
    elif c.rope_scaling is None:
        without |= {"rope_type", "rope_low_freq", "rope_high_freq", "rope_original", "rope_short", "rope_long"}
    elif c.rope_type in ("linear", "dynamic"):
        without |= {"rope_low_freq", "rope_high_freq", *(("rope_original",) if c.rope_type == "linear" else ())}
    elif c.rope_type == "longrope":
        without |= {"rope_low_freq", "rope_high_freq", "rope_factor"}
    if c.window is None or (c.rope_base_window == c.rope_base and c.rope_scaling is None):
        found["rope_base_window"] = None
    if c.no_rope_every > c.n_layer:
        found["no_rope_every"] = 0
    return {key: value for key, value in found.items() if key not in without}


def ours(family: Naming, name: str, config: GPTShape, tensor_of: Callable[[str], Tensor]) -> Tensor:
    """Return our tensor `name`, made of the tensors of theirs that `tensor_of` returns."""
    module, _, kind = name.rpartition(".")
    own = module.split(".", 2)[2] if module.startswith("blocks.") else module
    found = [tensor_of(part) for part in family.theirs(name)]
    if family.transposed and own != module and kind == "weight":
        found = [part.T if part.dim() == 2 else part for part in found]
    if own in family.halves:
        found = [found[0].chunk(2)[family.halves.index(own)]]
    tensor = torch.cat(found)
    if own == "wpe":
        tensor = tensor[family.first_position :]
    if own == "attn.qkv" and _interleaved(family, config) and tensor.shape[0] == 3 * config.n_head * config.head_dim:
        heads = tensor.unflatten(0, (config.n_head, 3, config.head_dim))  # type: ignore[no-untyped-call]
        tensor = heads.transpose(0, 1).flatten(0, 2)
    return tensor


def weights_of(gpt: GPT, hf: dict[str, Any]) -> dict[str, Tensor]:
    """Return the model's tensors under the names of the family of a config.json, without a tied head.

    Biases that the family has and the model lacks are zeros.
    """
    family, target, state = FAMILIES[hf["model_type"]], config_from(hf), gpt.state_dict()
    with on_meta():
        expected = GPT(target).state_dict()
    found: dict[str, list[Tensor]] = {}
    for name, meta in expected.items():
        if name == "lm_head.weight" and target.tied:
            continue
        tensor = state[name] if name in state else torch.zeros(meta.shape)
        module = name.rpartition(".")[0]
        own = module.split(".", 2)[2] if module.startswith("blocks.") else module
        if own == "attn.qkv":
            tensor = _qkv(family, gpt.config, target, tensor)
        if own == "wpe" and family.first_position:
            tensor = torch.cat([tensor.new_zeros(family.first_position, tensor.shape[1]), tensor])
        if family.transposed and own != module and tensor.dim() == 2:
            tensor = tensor.T
        parts, rows = family.theirs(name), [tensor.shape[0]]
        if len(parts) == 3:
            rows = [heads * target.head_dim for heads in (target.n_head, target.kv_heads, target.kv_heads)]
        for part, piece in zip(parts, tensor.split(rows), strict=True):
            first = own in family.halves and family.halves.index(own) == 0
            found.setdefault(_with_root(family, part), []).insert(0 if first else 1, piece)
    return {name: (torch.cat(pieces) if len(pieces) > 1 else pieces[0]).contiguous() for name, pieces in found.items()}


def _with_root(family: Family, name: str) -> str:
    return name if family.is_head(name) else family.root + name


def _interleaved(family: Naming, config: GPTShape) -> bool:
    return family.interleaved and config.kv_heads == config.n_head


def _qkv(family: Family, config: GPTShape, target: GPTConfig, qkv: Tensor) -> Tensor:
    """Return queries, keys and values as the family has them.

    Where our norm of queries and keys has the epsilon of fp32 and theirs another, both are scaled: x / sqrt(mean(x^2) +
    e) does not change if x is multiplied by s and e by s^2.
    """
    if config.qk_norm and config.qk_norm_eps is None and target.qk_norm_eps is not None:
        rows = (config.n_head + config.kv_heads) * config.head_dim
        scale = math.sqrt(target.qk_norm_eps / torch.finfo(torch.float32).eps)
        qkv = torch.cat([qkv[:rows] * scale, qkv[rows:]])
    if _interleaved(family, config):
        heads = qkv.unflatten(0, (3, config.n_head, config.head_dim))  # type: ignore[no-untyped-call]
        qkv = heads.transpose(0, 1).flatten(0, 2)
    return qkv
