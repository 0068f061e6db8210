"""Count the floating-point operations of training."""

from typing import Any

from gptlab.model.config import GPTConfig


def flops_per_token(config: GPTConfig, block_size: int | None = None) -> int:
    """Return the operations, forward and backward, for one token of a full context of T tokens.

    They are 6 per weight of a matrix product, and 12 L C T for attention scores and their use (Chowdhery et al. 2022,
    appendix B).
    """
    T = config.block_size if block_size is None else block_size
    width, inner = config.n_embd, 4 * config.n_embd if config.n_inner is None else config.n_inner
    attention = width * (config.n_head + 2 * config.kv_heads) * config.head_dim + width * width
    feed_forward = width * inner * (3 if config.feed_forward == "swiglu" else 2)
    weights = config.n_layer * (attention + feed_forward) + config.vocab_size * width
    return 6 * weights + 12 * config.n_layer * width * T


def flops_of_settings(model: Any) -> float | None:
    """Return the operations per token for the settings of a model in config.yaml; None for other settings."""
    try:
        return float(flops_per_token(GPTConfig(**model)))
    except (TypeError, ValueError, ArithmeticError):  # half a config, or one of another version
        return None
