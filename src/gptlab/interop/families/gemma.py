"""Gemma 1, 2 and 3 (text): scaled embedding, weights of norms around 0, soft caps, alternating windows."""

from typing import Any

from gptlab.interop.families.llama import NAMES, attention_bias, biases, head_size, read_llama, write_llama
from gptlab.interop.family import GATED, Family, Fields, layer_types, rope_of, rope_to, window_from
from gptlab.model.config import GPTConfig

GEMMA2_NAMES = {
    **NAMES,
    "post_1": ("post_attention_layernorm",),
    "ln_2": ("pre_feedforward_layernorm",),
    "post_2": ("post_feedforward_layernorm",),
}
GEMMA3_NAMES = {**GEMMA2_NAMES, "attn.q_norm": ("self_attn.q_norm",), "attn.k_norm": ("self_attn.k_norm",)}
ACTIVATION = "gelu_pytorch_tanh"


def _read(f: Fields, activation: str | None, block_size: int = 8192, **own: Any) -> GPTConfig:
    f.expect("use_bidirectional_attention", None, False)
    common = {
        "norm": "zero_centered_rms",
        "feed_forward": GATED[activation] if activation in GATED else f.choose("hidden_activation", ACTIVATION, GATED),
        "embedding_scale": f["hidden_size"] ** 0.5,
        "head_size": head_size(f, 256),
    }
    return read_llama(f, block_size, tied=True, **{**common, **own}, **biases(f, mlp=False))


def _read_gemma(f: Fields) -> GPTConfig:
    activation = f.get("hidden_activation") or f.get("hidden_act", ACTIVATION)  # gelu means its approximation here
    f.known.add("hidden_act")
    own = {"n_kv_head": f.get("num_key_value_heads", 16)}
    return _read(f, ACTIVATION if activation == "gelu" else activation, **own)


def _capped(f: Fields, every: int, attention: float | None, final: float | None) -> dict[str, Any]:
    f.known.add("hidden_act")
    return {
        "n_kv_head": f.get("num_key_value_heads", 4),
        "norm_at": "both",
        "attention_scale": f.get("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": float(f.get("attn_logit_softcapping", attention) or 0),
        "logit_softcap": float(f.get("final_logit_softcapping", final) or 0),
        **window_from(f, f["num_hidden_layers"], f.get("sliding_window", 4096), every),
    }


def _read_gemma2(f: Fields) -> GPTConfig:
    return _read(f, f.get("hidden_activation", ACTIVATION), **_capped(f, 2, 50.0, 30.0))


def _read_gemma3(f: Fields) -> GPTConfig:
    size = f.get("max_position_embeddings", 131072)
    own = _capped(f, f.get("sliding_window_pattern") or f.get("_sliding_window_pattern") or 6, None, None)
    rope = f.get("rope_parameters") or {}
    old = {"rope_theta": f.get("rope_theta") or 1e6, **(f.get("rope_scaling") or {})}
    full, near = rope.get("full_attention", old), rope.get("sliding_attention", {})
    local = float(near.get("rope_theta") or f.get("rope_local_base_freq") or 10000.0)
    f.known.add("rope_local_base_freq")
    rope_of(near, size, 1.0, ())  # layers with a window have no scaling
    own |= {**rope_of(full, size, 1.0, ("linear",)), "rope_base_window": local if "window" in own else None}
    own |= {"qk_norm": True, "qk_norm_eps": f.get("rms_norm_eps", 1e-6), "block_size": size}
    return _read(f, f.get("hidden_activation", ACTIVATION), **own)


def _write(config: GPTConfig) -> dict[str, Any]:
    own = {"hidden_act": ACTIVATION, "hidden_activation": ACTIVATION, "attention_bias": attention_bias(config)}
    return write_llama(config, **own)


def _write_gemma2(config: GPTConfig) -> dict[str, Any]:
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    scalar = scale**-2
    window = {} if config.window is None else {"sliding_window": config.window}
    return {
        **_write(config),
        "hidden_act": ACTIVATION,
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar,
        "attn_logit_softcapping": config.attention_softcap or None,
        "final_logit_softcapping": config.logit_softcap or None,
        "layer_types": layer_types(config),
        **window,
    }


def _write_gemma3(config: GPTConfig) -> dict[str, Any]:
    local = config.rope_base_window or config.rope_base
    full = rope_to(config)["rope_parameters"]
    rope = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    every = config.full_attention_every or config.n_layer + 1
    pattern = {} if config.window_layers is not None else {"sliding_window_pattern": every}
    return {**_write_gemma2(config), "rope_parameters": rope, "rope_local_base_freq": local, **pattern}


FAMILIES = [
    Family("gemma", "GemmaForCausalLM", _read_gemma, _write, names=NAMES),
    Family("gemma2", "Gemma2ForCausalLM", _read_gemma2, _write_gemma2, names=GEMMA2_NAMES),
    Family("gemma3_text", "Gemma3ForCausalLM", _read_gemma3, _write_gemma3, names=GEMMA3_NAMES),
]
