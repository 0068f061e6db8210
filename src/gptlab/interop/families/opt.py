"""OPT: a GPT-2 with ReLU, whose position embedding has two rows in front that no position uses."""

from typing import Any

from gptlab.errors import require
from gptlab.interop.family import ACTIVATIONS, UNGATED, Family, Fields
from gptlab.model.config import GPTConfig

NAMES = {
    "wte": ("embed_tokens",),
    "wpe": ("embed_positions",),
    "ln_f": ("final_layer_norm",),
    "ln_1": ("self_attn_layer_norm",),
    "ln_2": ("final_layer_norm",),
    "attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.fc": ("fc1",),
    "mlp.proj": ("fc2",),
}


def _read(f: Fields) -> GPTConfig:
    f.expect("do_layer_norm_before", True)
    f.expect("_remove_final_layer_norm", False)
    f.expect("enable_bias", True)
    f.expect("layer_norm_elementwise_affine", True)
    width, inner = f["hidden_size"], f.get("word_embed_proj_dim")
    require(inner in (None, width), "word_embed_proj_dim", inner, f"is not {width}", "it cannot be imported")
    return GPTConfig(
        n_layer=f["num_hidden_layers"],
        n_head=f["num_attention_heads"],
        n_embd=width,
        n_inner=f["ffn_dim"],
        block_size=f.get("max_position_embeddings", 2048),
        vocab_size=f["vocab_size"],
        feed_forward=f.choose("activation_function", "relu", UNGATED),
        tied=f.get("tie_word_embeddings", True),
    )


def _write(config: GPTConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.n_embd,
        "word_embed_proj_dim": config.n_embd,
        "ffn_dim": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "max_position_embeddings": config.block_size,
        "vocab_size": config.vocab_size,
        "activation_function": ACTIVATIONS.get(config.feed_forward, "relu"),
        "tie_word_embeddings": config.tied,
        **dict.fromkeys(("dropout", "attention_dropout"), config.dropout),
    }


FAMILIES = [Family("opt", "OPTForCausalLM", _read, _write, names=NAMES, root="model.decoder.", first_position=2)]
