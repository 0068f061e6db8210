"""Llama 1, 2 and 3, TinyLlama and SmolLM 1 and 2; and what most later families share with them."""

from typing import Any

from gptlab.interop.family import Family, Fields, rope_from, rope_to
from gptlab.model.config import GPTConfig

NAMES = {
    "wte": ("embed_tokens",),
    "ln_f": ("norm",),
    "ln_1": ("input_layernorm",),
    "ln_2": ("post_attention_layernorm",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.o_proj",),
    "mlp.gate": ("mlp.gate_proj",),
    "mlp.fc": ("mlp.up_proj",),
    "mlp.proj": ("mlp.down_proj",),
}


def head_size(f: Fields, default: int | None = None) -> int | None:
    """Return the width of a head if it is not n_embd / n_head, else None."""
    width, heads = f["hidden_size"], f["num_attention_heads"]
    found = f.get("head_dim", default)
    return None if found is None or found * heads == width else int(found)


def biases(f: Fields, mlp: bool = True) -> dict[str, Any]:
    """Return our fields for attention_bias and mlp_bias."""
    attention = bool(f.get("attention_bias", False))
    return {"bias": bool(f.get("mlp_bias", False)) if mlp else False, "qkv_bias": attention, "proj_bias": attention}


def read_llama(f: Fields, block_size: int = 2048, eps: float = 1e-6, tied: bool = False, **own: Any) -> GPTConfig:
    """Return the config of a Llama; `own` are fields of ours in which a family differs from it."""
    common: dict[str, Any] = {
        "n_layer": f["num_hidden_layers"],
        "n_head": f["num_attention_heads"],
        "n_kv_head": f.get("num_key_value_heads"),
        "n_embd": f["hidden_size"],
        "n_inner": f["intermediate_size"],
        "block_size": (size := f.get("max_position_embeddings", block_size)),
        "vocab_size": f["vocab_size"],
        "tied": f.get("tie_word_embeddings", tied),
        "positions": "rope",
        "norm": "rms",
    }
    if "norm_eps" not in own:
        own["norm_eps"] = f.get("rms_norm_eps", eps)
    if "feed_forward" not in own:
        own["feed_forward"] = f.choose("hidden_act", "silu", {"silu": "swiglu", "swish": "swiglu"})
    if "rope_base" not in own:
        own = {**rope_from(f, size), **own}
    return GPTConfig(**{**common, **own})


def write_llama(config: GPTConfig, **own: Any) -> dict[str, Any]:
    """Return the fields of a Llama's config.json; `own` are those in which a family differs from it."""
    found = {
        "hidden_act": "silu",
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "max_position_embeddings": config.block_size,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        **rope_to(config),
        **own,
    }
    return {key: value for key, value in found.items() if value is not ...}


def attention_bias(config: GPTConfig) -> bool:
    """Tell whether queries, keys and values or the output of attention have a bias."""
    return any(config.bias if each is None else each for each in (config.qkv_bias, config.proj_bias))


def _read(f: Fields) -> GPTConfig:
    f.expect("rope_interleaved", False)
    return read_llama(f, head_size=head_size(f), **biases(f))


def _write(config: GPTConfig) -> dict[str, Any]:
    return write_llama(config, attention_bias=attention_bias(config), mlp_bias=config.bias)


FAMILIES = [Family("llama", "LlamaForCausalLM", _read, _write, names=NAMES)]
