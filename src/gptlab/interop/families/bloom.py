"""Bloom: positions by linear biases (ALiBi), and a norm behind the embedding."""

from typing import Any

from gptlab.interop.family import Family, Fields
from gptlab.model.config import GPTConfig

NAMES = {
    "wte": ("word_embeddings",),
    "ln_wte": ("word_embeddings_layernorm",),
    "ln_f": ("ln_f",),
    "ln_1": ("input_layernorm",),
    "ln_2": ("post_attention_layernorm",),
    "attn.qkv": ("self_attention.query_key_value",),
    "attn.proj": ("self_attention.dense",),
    "mlp.fc": ("mlp.dense_h_to_4h",),
    "mlp.proj": ("mlp.dense_4h_to_h",),
}


def _read(f: Fields) -> GPTConfig:
    f.expect("apply_residual_connection_post_layernorm", False)
    f.known |= {"n_inner", "offset_alibi", "skip_bias_add", "skip_bias_add_qkv"}  # of another implementation
    return GPTConfig(
        n_layer=f.first("n_layer", "num_hidden_layers"),
        n_head=f.first("n_head", "num_attention_heads"),
        n_embd=f.first("n_embed", "hidden_size"),
        block_size=f.get("seq_length", 2048),
        vocab_size=f["vocab_size"],
        norm_eps=f.get("layer_norm_epsilon", 1e-5),
        tied=f.get("tie_word_embeddings", True),
        positions="alibi",
        embedding_norm=True,
    )


def _write(config: GPTConfig) -> dict[str, Any]:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "hidden_size": config.n_embd,
        "seq_length": config.block_size,
        "vocab_size": config.vocab_size,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied,
        **dict.fromkeys(("hidden_dropout", "attention_dropout"), config.dropout),
    }


FAMILIES = [
    Family("bloom", "BloomForCausalLM", _read, _write, names=NAMES, root="transformer.", stack="h", interleaved=True)
]
