"""Qwen2 and 2.5, with biases of queries, keys and values; Qwen3, with norms of queries and keys."""

from typing import Any

from gptlab.interop.families.llama import NAMES, attention_bias, biases, head_size, read_llama, write_llama
from gptlab.interop.family import Family, Fields, layer_types, window_from
from gptlab.model.config import GPTConfig

QWEN3_NAMES = {**NAMES, "attn.q_norm": ("self_attn.q_norm",), "attn.k_norm": ("self_attn.k_norm",)}


def _window(f: Fields) -> dict[str, Any]:
    n_layer, first = f["num_hidden_layers"], f.get("max_window_layers", 28)
    window = f.get("sliding_window", 4096)
    if not f.get("use_sliding_window", False) or (f.get("layer_types") is None and first >= n_layer):
        window = None
    if window is not None and f.get("layer_types") is None and first:
        return {"window": window, "window_layers": list(range(first, n_layer))}
    return window_from(f, n_layer, window, 0)


def _read_qwen2(f: Fields) -> GPTConfig:
    own = {"n_kv_head": f.get("num_key_value_heads", 32), **_window(f)}
    return read_llama(f, 32768, head_size=head_size(f), bias=False, qkv_bias=True, **own)


def _read_qwen3(f: Fields) -> GPTConfig:
    own = {"n_kv_head": f.get("num_key_value_heads", 32), "head_size": head_size(f, 128), **_window(f)}
    return read_llama(f, 32768, qk_norm=True, qk_norm_eps=f.get("rms_norm_eps", 1e-6), **own, **biases(f, mlp=False))


def _windows(config: GPTConfig) -> dict[str, Any]:
    types = layer_types(config)
    first = types.index("sliding_attention") if "sliding_attention" in types else len(types)
    which = {"layer_types": types, "max_window_layers": first}
    return {"use_sliding_window": first < len(types), "sliding_window": config.window, **which}


def _write_qwen2(config: GPTConfig) -> dict[str, Any]:
    width = ... if config.head_size is None else config.head_dim
    return write_llama(config, head_dim=width, **_windows(config))


def _write_qwen3(config: GPTConfig) -> dict[str, Any]:
    return write_llama(config, attention_bias=attention_bias(config), **_windows(config))


FAMILIES = [
    Family("qwen2", "Qwen2ForCausalLM", _read_qwen2, _write_qwen2, names=NAMES),
    Family("qwen3", "Qwen3ForCausalLM", _read_qwen3, _write_qwen3, names=QWEN3_NAMES),
]
