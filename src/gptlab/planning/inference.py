"""Count the operations and the bytes of inference: reading a prompt, and each token behind it."""

from gptlab.model.config import GPTConfig
from gptlab.planning.flops import flops_by_part

FORWARD = 3  # the operations of training are so many times those of the forward pass


def prefill_flops(config: GPTConfig, length: int) -> int:
    """Return the operations to read `length` tokens; the head predicts what follows the last of them alone."""
    parts = flops_by_part(config, length)
    return (length * (parts["blocks"] + parts["attention"]) + parts["head"]) // FORWARD


def decode_flops(config: GPTConfig, context: int) -> int:
    """Return the operations to read one more token of a text of `context` tokens, and to predict the next one."""
    return sum(flops_by_part(config, context).values()) // FORWARD


def weights_read(config: GPTConfig) -> int:
    """Return the number of weights that a step of decoding reads: those of all matrix products.

    A table of embeddings that is not the head as well gives only a row for each text.
    """
    parts = flops_by_part(config)
    return (parts["blocks"] + parts["head"]) // 6


def cached_numbers(config: GPTConfig, tokens: int) -> int:
    """Return how many numbers the cache of one text has: a key and a value for each layer and token."""
    return 2 * config.n_layer * config.kv_heads * config.head_dim * tokens


def decode_bytes(config: GPTConfig, batch: int, context: int, number: int) -> float:
    """Return the bytes that must be read for one new token, in numbers of `number` bytes.

    The weights are read once for a whole batch; each text has a cache of its own.
    """
    return number * (weights_read(config) / batch + cached_numbers(config, context))
