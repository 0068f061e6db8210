"""Granite: a Llama with factors for embedding, scores, residuals and logits."""

from typing import Any

from gptlab.interop.families.llama import NAMES, attention_bias, biases, head_size, read_llama, write_llama
from gptlab.interop.family import Family, Fields
from gptlab.model.config import GPTConfig


def _read(f: Fields) -> GPTConfig:
    own: dict[str, Any] = {
        "embedding_scale": float(f.get("embedding_multiplier", 1.0)),
        "attention_scale": float(f.get("attention_multiplier", 1.0)),
        "residual_scale": float(f.get("residual_multiplier", 1.0)),
        "logit_divisor": float(f.get("logits_scaling", 1.0)),
        "head_size": head_size(f),
    }
    return read_llama(f, **own, **biases(f))


def _write(config: GPTConfig) -> dict[str, Any]:
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    own = {"embedding_multiplier": config.embedding_scale, "attention_multiplier": scale}
    own |= {"residual_multiplier": config.residual_scale, "logits_scaling": config.logit_divisor}
    width = ... if config.head_size is None else config.head_dim
    bias = {"attention_bias": attention_bias(config), "mlp_bias": config.bias}
    return write_llama(config, head_dim=width, **own, **bias)


FAMILIES = [Family("granite", "GraniteForCausalLM", _read, _write, names=NAMES)]
