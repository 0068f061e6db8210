"""OLMo, whose norms have no weights, and OLMo 2, whose norms stand behind attention and feed-forward."""

from typing import Any

from gptlab.interop.families.llama import NAMES, attention_bias, biases, head_size, read_llama, write_llama
from gptlab.interop.family import Family, Fields
from gptlab.model.config import GPTConfig

OLMO2_NAMES = {
    **{ours: theirs for ours, theirs in NAMES.items() if ours not in ("ln_1", "ln_2")},
    "attn.q_norm": ("self_attn.q_norm",),
    "attn.k_norm": ("self_attn.k_norm",),
    "post_1": ("post_attention_layernorm",),
    "post_2": ("post_feedforward_layernorm",),
}


def _read_olmo(f: Fields) -> GPTConfig:
    own: dict[str, Any] = {"norm": "plain_layer", "norm_eps": 1e-5, "head_size": head_size(f)}
    own["qkv_clip"] = float(f.get("clip_qkv") or 0)
    return read_llama(f, **own, **biases(f, mlp=False))


def _write_olmo(config: GPTConfig) -> dict[str, Any]:
    own = {"attention_bias": attention_bias(config), "clip_qkv": config.qkv_clip or None}
    return write_llama(config, **own, rms_norm_eps=..., head_dim=...)


def _read_olmo2(f: Fields) -> GPTConfig:
    eps = f.get("rms_norm_eps", 1e-5)
    own: dict[str, Any] = {
        "norm_at": "after",
        "qk_norm": True,
        "qk_norm_over": "all",
        "qk_norm_eps": eps,
        "head_size": head_size(f),
    }
    return read_llama(f, eps=1e-5, **own, **biases(f, mlp=False))


def _write_olmo2(config: GPTConfig) -> dict[str, Any]:
    return write_llama(config, attention_bias=attention_bias(config))


FAMILIES = [
    Family("olmo", "OlmoForCausalLM", _read_olmo, _write_olmo, names=NAMES),
    Family("olmo2", "Olmo2ForCausalLM", _read_olmo2, _write_olmo2, names=OLMO2_NAMES),
]
