"""Tiny models of each family, made by transformers, with two shapes each; windows are shorter than the texts read."""

from typing import Any

import torch
import transformers

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
         "max_position_embeddings": 96, "bos_token_id": 1, "eos_token_id": 299, "pad_token_id": 0}  # fmt: skip
OTHER = {**SMALL, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 5, "num_attention_heads": 6}
GPT2 = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 96, "vocab_size": 300, "eos_token_id": 299,
        "bos_token_id": 299}  # fmt: skip
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 24}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24}
OPT = {key: value for key, value in SMALL.items() if key != "intermediate_size"} | {"ffn_dim": 48}
IRREGULAR = ["full_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300, "eos_token_id": 299, "seq_length": 96}

# family and shape -> class of the model, and its config
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2, relu": ("GPT2", {**GPT2, "n_layer": 3, "n_inner": 40, "activation_function": "relu"}),
    "llama": ("Llama", SMALL),
    "llama, grouped, biases": ("Llama", {**OTHER, **GROUPED, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama, llama3": ("Llama", {**SMALL, **GROUPED, "rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama, linear": ("Llama", {**SMALL, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama, dynamic": ("Llama", {**SMALL, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                                 "max_position_embeddings": 24}),
    "llama, yarn": ("Llama", {**SMALL, "rope_parameters": YARN}),
    "mistral": ("Mistral", {**SMALL, **GROUPED, "sliding_window": 7}),
    "mistral, no window": ("Mistral", {**OTHER, **GROUPED, "sliding_window": None, "head_dim": 16}),
    "qwen2": ("Qwen2", {**SMALL, **GROUPED}),
    "qwen2, window": ("Qwen2", {**OTHER, **GROUPED, "use_sliding_window": True, "sliding_window": 9,
                                "max_window_layers": 0}),
    "qwen2, upper layers": ("Qwen2", {**OTHER, **GROUPED, "use_sliding_window": True, "sliding_window": 9,
                                      "max_window_layers": 3}),
    "qwen3": ("Qwen3", {**SMALL, **GROUPED, "head_dim": 16}),
    "qwen3, biases, tied": ("Qwen3", {**OTHER, **GROUPED, "head_dim": 8, "attention_bias": True,
                                      "tie_word_embeddings": True}),
    "qwen3, irregular": ("Qwen3", {**OTHER, **GROUPED, "head_dim": 8, "use_sliding_window": True, "sliding_window": 6,
                                   "layer_types": IRREGULAR}),
    "smollm3": ("SmolLM3", {**OTHER, **GROUPED}),
    "smollm3, every second": ("SmolLM3", {**OTHER, **GROUPED, "no_rope_layer_interval": 2, "attention_bias": True,
                                          "tie_word_embeddings": False}),
    "olmo": ("Olmo", SMALL),
    "olmo, grouped": ("Olmo", {**OTHER, **GROUPED, "tie_word_embeddings": True}),
    "olmo, clipped": ("Olmo", {**SMALL, "clip_qkv": 0.6}),
    "olmo, clipped, grouped": ("Olmo", {**OTHER, **GROUPED, "clip_qkv": 1.5}),
    "olmo2": ("Olmo2", SMALL),
    "olmo2, grouped": ("Olmo2", {**OTHER, **GROUPED}),
    "granite": ("Granite", {**SMALL, "embedding_multiplier": 12.0, "attention_multiplier": 0.1,
                            "residual_multiplier": 0.22, "logits_scaling": 8.0}),
    "granite, grouped": ("Granite", {**OTHER, **GROUPED, "attention_multiplier": 0.3, "attention_bias": True}),
    "gemma": ("Gemma", {**SMALL, "num_key_value_heads": 1, "head_dim": 16}),
    "gemma, grouped": ("Gemma", {**OTHER, **GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2", {**SMALL, **GROUPED, "head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 24,
                          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma2, five layers": ("Gemma2", {**OTHER, **GROUPED, "head_dim": 8, "sliding_window": 5}),
    "gemma2, irregular": ("Gemma2", {**OTHER, **GROUPED, "head_dim": 8, "sliding_window": 5,
                                     "layer_types": IRREGULAR}),
    "gemma3_text": ("Gemma3", {**SMALL, **GROUPED, "head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 24}),
    "gemma3_text, five layers": ("Gemma3", {**OTHER, **GROUPED, "head_dim": 8, "sliding_window": 5,
                                            "layer_types": ["sliding_attention", "full_attention"] * 2
                                            + ["sliding_attention"]}),
    "gemma3_text, irregular": ("Gemma3", {**OTHER, **GROUPED, "head_dim": 8, "sliding_window": 5,
                                          "layer_types": IRREGULAR}),
    "phi": ("Phi", SMALL),
    "phi, grouped": ("Phi", {**OTHER, **GROUPED, "hidden_act": "gelu"}),
    "phi3": ("Phi3", {**SMALL, "sliding_window": 7}),
    "phi3, grouped": ("Phi3", {**OTHER, **GROUPED}),
    "phi3, longrope": ("Phi3", {**SMALL, "original_max_position_embeddings": 24, "rope_parameters": {
        **LONGROPE, "short_factor": [1.0, 1.1, 1.3, 1.9], "long_factor": [1.2, 2.0, 4.5, 9.0]}}),
    "phi3, longrope, partly": ("Phi3", {**OTHER, **GROUPED, "original_max_position_embeddings": 24, "rope_parameters": {
        **LONGROPE, "partial_rotary_factor": 0.75, "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 3.0, 8.0],
        "attention_factor": 1.3}}),
    "gpt_neox": ("GPTNeoX", SMALL),
    "gpt_neox, sequential": ("GPTNeoX", {**OTHER, "use_parallel_residual": False, "rotary_pct": 0.5,
                                         "attention_bias": False, "hidden_act": "gelu_new"}),
    "opt": ("OPT", OPT),
    "opt, gelu": ("OPT", {**OPT, "num_hidden_layers": 3, "ffn_dim": 20, "activation_function": "gelu"}),
    "gpt_bigcode": ("GPTBigCode", GPT2),
    "gpt_bigcode, all heads": ("GPTBigCode", {**GPT2, "n_layer": 3, "multi_query": False, "n_inner": 40}),
    "bloom": ("Bloom", BLOOM),
    "bloom, six heads": ("Bloom", {**BLOOM, "hidden_size": 48, "n_head": 6, "n_layer": 3}),
}  # fmt: skip


def model(name: str) -> transformers.PreTrainedModel:
    """A model of transformers, its weights spread so that mistakes would show."""
    kind, options = MODELS[name]
    config_kind = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    made = getattr(transformers, kind + suffix)(config_kind(**options, attn_implementation="eager")).eval()
    torch.manual_seed(len(name))
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return made
