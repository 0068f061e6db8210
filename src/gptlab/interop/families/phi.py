"""Phi-1, 1.5 and 2, with parallel residuals and partly rotated heads; Phi-3, a Llama with fused tensors."""

from typing import Any

from gptlab.interop.families.llama import NAMES, head_size, read_llama, write_llama
from gptlab.interop.family import ACTIVATIONS, LONGROPE, UNGATED, Family, Fields, rope_from
from gptlab.model.config import GPTConfig

PHI_NAMES = {
    **{ours: NAMES[ours] for ours in ("wte", "ln_1", "attn.qkv")},
    "ln_f": ("final_layernorm",),
    "attn.proj": ("self_attn.dense",),
    "mlp.fc": ("mlp.fc1",),
    "mlp.proj": ("mlp.fc2",),
}
PHI3_NAMES = {
    **{ours: NAMES[ours] for ours in ("wte", "ln_f", "ln_1", "ln_2", "attn.proj", "mlp.proj")},
    "attn.qkv": ("self_attn.qkv_proj",),
    "mlp.gate": ("mlp.gate_up_proj",),
    "mlp.fc": ("mlp.gate_up_proj",),
}


def _read_phi(f: Fields) -> GPTConfig:
    f.expect("qk_layernorm", False)
    own = {
        "norm": "layer",
        "norm_eps": f.get("layer_norm_eps", 1e-5),
        "residual": "parallel_one_norm",
        "feed_forward": f.choose("hidden_act", "gelu_new", UNGATED),
        "head_bias": True,
        "head_size": head_size(f),
        **rope_from(f, f.get("max_position_embeddings", 2048), 0.5),
    }
    return read_llama(f, **own)


def _write_phi(config: GPTConfig) -> dict[str, Any]:
    own = {"hidden_act": ACTIVATIONS.get(config.feed_forward, "gelu_new"), "layer_norm_eps": config.norm_eps}
    return write_llama(config, rms_norm_eps=..., head_dim=..., partial_rotary_factor=config.rope_fraction, **own)


def _read_phi3(f: Fields) -> GPTConfig:
    size = f.get("max_position_embeddings", 4096)
    own = {"window": f.get("sliding_window"), "head_size": head_size(f), "bias": False}
    original = f.get("original_max_position_embeddings", 4096)
    rope = rope_from(f, size, kinds=LONGROPE, original=original)
    return read_llama(f, 4096, 1e-5, **own, **rope)


def _write_phi3(config: GPTConfig) -> dict[str, Any]:
    original = config.rope_original if config.rope_scaling else config.block_size
    own = {"sliding_window": config.window, "original_max_position_embeddings": original}
    return write_llama(config, head_dim=..., **own)


FAMILIES = [
    Family("phi", "PhiForCausalLM", _read_phi, _write_phi, names=PHI_NAMES),
    Family("phi3", "Phi3ForCausalLM", _read_phi3, _write_phi3, names=PHI3_NAMES, halves=("mlp.gate", "mlp.fc")),
]
