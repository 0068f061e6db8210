"""GPT-2, and GPT-BigCode (StarCoder), which shares one key and value among all heads."""

from typing import Any

from gptlab.interop.family import ACTIVATIONS, UNGATED, Family, Fields
from gptlab.model.config import GPTConfig

NAMES = {
    "wte": ("wte",),
    "wpe": ("wpe",),
    "ln_f": ("ln_f",),
    "ln_1": ("ln_1",),
    "ln_2": ("ln_2",),
    "attn.qkv": ("attn.c_attn",),
    "attn.proj": ("attn.c_proj",),
    "mlp.fc": ("mlp.c_fc",),
    "mlp.proj": ("mlp.c_proj",),
}


def _read(f: Fields, **own: Any) -> GPTConfig:
    f.expect("scale_attn_weights", True)
    f.expect("scale_attn_by_inverse_layer_idx", False)
    f.expect("add_cross_attention", False)
    return GPTConfig(
        n_layer=f["n_layer"],
        n_head=f["n_head"],
        n_embd=f["n_embd"],
        block_size=f["n_positions"],
        vocab_size=f["vocab_size"],
        n_inner=f.get("n_inner"),
        norm_eps=f.get("layer_norm_epsilon", 1e-5),
        tied=f.get("tie_word_embeddings", True),
        **own,
    )


def _write(config: GPTConfig) -> dict[str, Any]:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "n_positions": config.block_size,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": ACTIVATIONS.get(config.feed_forward, "gelu_new"),
        "tie_word_embeddings": config.tied,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
    }


def _read_gpt2(f: Fields) -> GPTConfig:
    return _read(f, feed_forward=f.choose("activation_function", "gelu_new", UNGATED))


def _read_bigcode(f: Fields) -> GPTConfig:
    kv_heads = 1 if f.get("multi_query", True) else None
    f.expect("num_key_value_heads", *((1,) if kv_heads else (f["n_head"],)))
    return _read(f, feed_forward=f.choose("activation_function", "gelu_pytorch_tanh", UNGATED), n_kv_head=kv_heads)


def _write_bigcode(config: GPTConfig) -> dict[str, Any]:
    return {**_write(config), "multi_query": config.kv_heads == 1}


FAMILIES = [
    Family("gpt2", "GPT2LMHeadModel", _read_gpt2, _write, names=NAMES, root="transformer.", stack="h", transposed=True),
    Family(
        *("gpt_bigcode", "GPTBigCodeForCausalLM", _read_bigcode, _write_bigcode),
        names=NAMES,
        root="transformer.",
        stack="h",
        interleaved=True,
    ),
]
