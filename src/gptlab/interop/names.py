"""Translate the names of tensors and config fields between Hugging Face and gptlab: one table for both ways."""

import re
from typing import Any

from gptlab.errors import UserError, require
from gptlab.model.config import GPTConfig

# module of ours -> modules of theirs (several: ours is their rows one below the other)
GPT2 = {
    "wte": ["wte"],
    "wpe": ["wpe"],
    "ln_f": ["ln_f"],
    "ln_1": ["ln_1"],
    "ln_2": ["ln_2"],
    "attn.qkv": ["attn.c_attn"],
    "attn.proj": ["attn.c_proj"],
    "mlp.fc": ["mlp.c_fc"],
    "mlp.proj": ["mlp.c_proj"],
}
LLAMA = {
    "wte": ["embed_tokens"],
    "ln_f": ["norm"],
    "ln_1": ["input_layernorm"],
    "ln_2": ["post_attention_layernorm"],
    "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.proj": ["self_attn.o_proj"],
    "attn.q_norm": ["self_attn.q_norm"],
    "attn.k_norm": ["self_attn.k_norm"],
    "mlp.gate": ["mlp.gate_proj"],
    "mlp.fc": ["mlp.up_proj"],
    "mlp.proj": ["mlp.down_proj"],
}


def theirs(model_type: str, name: str) -> tuple[list[str], bool]:
    """Return the tensors that make up our tensor `name`, and whether they are stored transposed (GPT-2's Conv1D)."""
    if name == "lm_head.weight":
        return ["lm_head.weight"], False
    match = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)", name)
    assert match is not None
    layer, module, kind = match.groups()
    table, root, stack = (GPT2, "transformer.", "h") if model_type == "gpt2" else (LLAMA, "model.", "layers")
    prefix = root if layer is None else f"{root}{stack}.{layer}."
    transposed = model_type == "gpt2" and kind == "weight" and module.startswith(("attn", "mlp"))
    return [f"{prefix}{module}.{kind}" for module in table[module]], transposed


def config_from(hf: dict[str, Any]) -> GPTConfig:
    """Return our config for a Hugging Face config.json; raises UserError for what cannot be expressed."""
    kind = hf.get("model_type")
    if kind == "gpt2":
        _expect(hf, "activation_function", "gelu_new", ("gelu_new", "gelu_pytorch_tanh"))
        _expect(hf, "scale_attn_weights", True, (True,))
        _expect(hf, "scale_attn_by_inverse_layer_idx", False, (False,))
        return GPTConfig(
            n_layer=hf["n_layer"],
            n_head=hf["n_head"],
            n_embd=hf["n_embd"],
            block_size=hf["n_positions"],
            vocab_size=hf["vocab_size"],
            n_inner=hf.get("n_inner"),
            norm_eps=hf.get("layer_norm_epsilon", 1e-5),
            tied=hf.get("tie_word_embeddings", True),
        )
    if kind == "llama":
        _expect(hf, "hidden_act", "silu", ("silu", "swish"))
        _expect(hf, "attention_bias", False, (False,))
        _expect(hf, "mlp_bias", False, (False,))
        width = hf["hidden_size"] // hf["num_attention_heads"]
        _expect(hf, "head_dim", width, (width, None))
        # transformers 5 writes rope_parameters, 4 wrote rope_scaling beside rope_theta
        rope = hf.get("rope_parameters") or {"rope_theta": hf.get("rope_theta"), **(hf.get("rope_scaling") or {})}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        require(rope_type in ("default", "llama3"), "rope_type", rope_type, "is not known here", "it can be llama3")
        scaling = {} if rope_type == "default" else {
            "rope_factor": float(rope["factor"]),
            "rope_low_freq": float(rope["low_freq_factor"]),
            "rope_high_freq": float(rope["high_freq_factor"]),
            "rope_original": int(rope["original_max_position_embeddings"]),
        }  # fmt: skip
        return GPTConfig(
            n_layer=hf["num_hidden_layers"],
            n_head=hf["num_attention_heads"],
            n_kv_head=hf.get("num_key_value_heads"),
            n_embd=hf["hidden_size"],
            n_inner=hf["intermediate_size"],
            block_size=hf.get("max_position_embeddings", 2048),
            vocab_size=hf["vocab_size"],
            norm_eps=hf.get("rms_norm_eps", 1e-6),
            tied=hf.get("tie_word_embeddings", False),
            rope_base=float(rope.get("rope_theta") or 10000.0),
            positions="rope",
            norm="rms",
            feed_forward="swiglu",
            bias=False,
            **scaling,  # type: ignore[arg-type]
        )
    raise UserError("model_type", kind, "is not known here", "it can be gpt2 or llama")


def config_to(config: GPTConfig) -> dict[str, Any]:
    """Return the config.json of a GPT-2, Llama, Qwen2 or Qwen3 that is this model.

    Biases that a model lacks are zero in GPT-2 and Llama. Where there is no such model, a UserError says why.
    """
    qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
    gpt2 = config.positions == "learned"
    if gpt2:
        kind = "gpt2"
    elif config.qk_norm:
        kind = "qwen3"
    else:
        kind = "qwen2" if qkv_bias and not config.bias else "llama"
    needed: dict[str, Any] = {
        "positions": "learned" if gpt2 else "rope",
        "norm": "layer" if gpt2 else "rms",
        "feed_forward": "gelu" if gpt2 else "swiglu",
        "logit_softcap": 0.0,
        **({"qk_norm": False} if gpt2 else {}),
        **({"bias": False} if kind == "qwen3" else {}),
    }
    for key, value in needed.items():
        mine, todo = getattr(config, key), f"a {kind} has {value}"
        require(mine == value, f"model.{key}", mine, "Hugging Face has no such model", todo)
    grouped = gpt2 and config.kv_heads != config.n_head
    require(not grouped, "model.n_kv_head", config.n_kv_head, "Hugging Face's GPT-2 has no groups", "a llama has")
    n_inner = 4 * config.n_embd if config.n_inner is None else config.n_inner
    if gpt2:
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "n_inner": n_inner,
            "n_positions": config.block_size,
            "vocab_size": config.vocab_size,
            "layer_norm_epsilon": config.norm_eps,
            "activation_function": "gelu_new",
            "tie_word_embeddings": config.tied,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        }
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        rope = {
            "rope_type": "llama3",
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low_freq,
            "high_freq_factor": config.rope_high_freq,
            "original_max_position_embeddings": config.rope_original,
        }
    biases: dict[str, Any] = {}
    if kind == "llama" and (qkv_bias or config.bias):
        biases = {"attention_bias": True, "mlp_bias": config.bias}
    elif kind == "qwen3":
        biases = {"attention_bias": qkv_bias, "head_dim": config.head_dim}
    return {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "hidden_act": "silu",
        **biases,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "hidden_size": config.n_embd,
        "intermediate_size": n_inner,
        "max_position_embeddings": config.block_size,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "rope_parameters": {"rope_theta": config.rope_base, **rope},
        "rope_theta": config.rope_base,  # for transformers before 5
        "rope_scaling": rope if config.rope_scaling else None,
    }


def _expect(hf: dict[str, Any], key: str, default: Any, known: tuple[Any, ...]) -> None:
    value = hf.get(key, default)
    require(value in known, key, value, "is not known here", f"it can be {known[0]}")
