"""SmolLM3: a Llama in which every fourth layer has no positions."""

from typing import Any

from gptlab.interop.families.llama import NAMES, attention_bias, biases, head_size, read_llama, write_llama
from gptlab.interop.family import Family, Fields, full_every, layer_types, window_from
from gptlab.model.config import GPTConfig


def _read(f: Fields) -> GPTConfig:
    n_layer, every = f["num_hidden_layers"], f.get("no_rope_layer_interval", 4)
    rotated = f.get("no_rope_layers")
    if rotated is None:
        rotated = [(layer + 1) % every != 0 for layer in range(n_layer)]
    window = f.get("sliding_window") if f.get("use_sliding_window", False) else None
    f.known.add("max_window_layers")
    if window is not None:
        f["layer_types"]
    own = {"no_rope_every": full_every([not each for each in rotated[:n_layer]]), **window_from(f, n_layer, window, 0)}
    own |= {"n_kv_head": f.get("num_key_value_heads", 4), "head_size": head_size(f)}
    return read_llama(f, 32768, tied=True, **own, **biases(f))


def _write(config: GPTConfig) -> dict[str, Any]:
    rotated = [int(config.has_positions(layer)) for layer in range(config.n_layer)]
    window = {"use_sliding_window": config.window is not None, "sliding_window": config.window}
    own = {"no_rope_layers": rotated, "layer_types": layer_types(config), **window}
    return write_llama(config, attention_bias=attention_bias(config), mlp_bias=config.bias, **own)


FAMILIES = [Family("smollm3", "SmolLM3ForCausalLM", _read, _write, names=NAMES)]
