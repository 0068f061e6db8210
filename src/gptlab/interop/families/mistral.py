"""Mistral: a Llama whose layers may attend to a sliding window only."""

from typing import Any

from gptlab.interop.families.llama import NAMES, head_size, read_llama, write_llama
from gptlab.interop.family import Family, Fields
from gptlab.model.config import GPTConfig


def _read(f: Fields) -> GPTConfig:
    own = {"n_kv_head": f.get("num_key_value_heads", 8), "window": f.get("sliding_window", 4096)}
    return read_llama(f, 131072, head_size=head_size(f), bias=False, **own)


def _write(config: GPTConfig) -> dict[str, Any]:
    return write_llama(config, sliding_window=config.window)


FAMILIES = [Family("mistral", "MistralForCausalLM", _read, _write, names=NAMES)]
