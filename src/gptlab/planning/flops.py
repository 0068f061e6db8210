"""Count the floating-point operations of training."""

from typing import Any

from gptlab import registry
from gptlab.model.config import GPTConfig


def flops_per_token(config: Any, block_size: int | None = None, parameters: int | None = None) -> int:
    """Return the operations, forward and backward, for one token of a full context of T tokens.

    For a GPT they are 6 for each weight of a matrix product, and 12 H D T for the attention scores of each layer and
    their use (Chowdhery et al. 2022, appendix B); a window counts as its width. For another model they are what its
    config's `flops_per_token()` says, or else 6 for each of its `parameters`. Raises TypeError where neither is known.
    """
    if hasattr(config, "flops_per_token"):
        return int(config.flops_per_token())
    if not isinstance(config, GPTConfig):
        if parameters is None:
            raise TypeError(f"{type(config).__name__} does not say its flops_per_token()")
        return 6 * parameters
    return sum(flops_by_part(config, block_size).values())


def flops_by_part(config: GPTConfig, block_size: int | None = None) -> dict[str, int]:
    """Return a GPT's operations for one token: those of the weights in its blocks, of attention, and of the head."""
    T = config.block_size if block_size is None else block_size
    width, inner = config.n_embd, 4 * config.n_embd if config.n_inner is None else config.n_inner
    heads = config.n_head * config.head_dim
    attention = width * (config.n_head + 2 * config.kv_heads) * config.head_dim + heads * width
    feed_forward = width * inner * (3 if config.feed_forward in ("swiglu", "geglu") else 2)
    near = T if config.window is None else min(T, config.window)
    seen = sum(near if config.has_window(layer) else T for layer in range(config.n_layer))
    return {
        "blocks": 6 * config.n_layer * (attention + feed_forward),
        "attention": 12 * heads * seen,
        "head": 6 * config.vocab_size * width,
    }


def flops_of_settings(option: str, settings: Any) -> float | None:
    """Return the same for a model's option and settings as config.yaml has them; None where they do not say it."""
    kind = registry.options("model").get(option)
    try:
        return None if kind is None else float(flops_per_token(kind(**settings)))
    except Exception:  # half a config, or one of another version; or whatever another package's code raises
        return None
