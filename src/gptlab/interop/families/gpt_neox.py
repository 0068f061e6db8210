"""GPT-NeoX and Pythia: parallel residuals, and rotary positions for a quarter of each head."""

from typing import Any

from gptlab.interop.family import ACTIVATIONS, UNGATED, Family, Fields, rope_from, rope_to
from gptlab.model.config import GPTConfig

NAMES = {
    "wte": ("embed_in",),
    "ln_f": ("final_layer_norm",),
    "ln_1": ("input_layernorm",),
    "ln_2": ("post_attention_layernorm",),
    "attn.qkv": ("attention.query_key_value",),
    "attn.proj": ("attention.dense",),
    "mlp.fc": ("mlp.dense_h_to_4h",),
    "mlp.proj": ("mlp.dense_4h_to_h",),
}


def _read(f: Fields) -> GPTConfig:
    size, bias = f.get("max_position_embeddings", 2048), bool(f.get("attention_bias", True))
    rope = rope_from(f, size, f.get("rotary_pct", 0.25))
    base = f.get("rotary_emb_base")
    if f.get("rope_parameters") is None and base is not None:
        rope["rope_base"] = float(base)
    return GPTConfig(
        n_layer=f["num_hidden_layers"],
        n_head=f["num_attention_heads"],
        n_embd=f["hidden_size"],
        n_inner=f["intermediate_size"],
        block_size=size,
        vocab_size=f["vocab_size"],
        norm_eps=f.get("layer_norm_eps", 1e-5),
        feed_forward=f.choose("hidden_act", "gelu", UNGATED),
        residual="parallel" if f.get("use_parallel_residual", True) else "sequential",
        qkv_bias=bias,
        proj_bias=bias,
        tied=f.get("tie_word_embeddings", False),
        positions="rope",
        **rope,
    )


def _write(config: GPTConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "max_position_embeddings": config.block_size,
        "vocab_size": config.vocab_size,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": ACTIVATIONS.get(config.feed_forward, "gelu"),
        "use_parallel_residual": config.residual == "parallel",
        "attention_bias": any(each is not False for each in (config.qkv_bias, config.proj_bias)),
        "tie_word_embeddings": config.tied,
        **rope_to(config),
        "rope_parameters": {**rope_to(config)["rope_parameters"], "partial_rotary_factor": config.rope_fraction},
        "rotary_pct": config.rope_fraction,
        "rotary_emb_base": config.rope_base,
    }


FAMILIES = [
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        _read,
        _write,
        names=NAMES,
        root="gpt_neox.",
        head="embed_out",
        interleaved=True,
    )
]
