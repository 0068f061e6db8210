"""Define a family of models: how its config.json and its tensors correspond to a GPTConfig and to a GPT's tensors."""

import contextlib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptlab.errors import UserError, require
from gptlab.model.config import GPTConfig

# what a config.json may say that does not change the logits of a model in evaluation
HARMLESS = {
    *("architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache", "prefix"),
    *("_name_or_path", "name_or_path", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id"),
    *("initializer_range", "init_std", "init_method", "cache_implementation", "pretraining_tp", "slow_but_exact"),
    *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "layerdrop"),
    *("classifier_dropout", "task_specific_params", "summary_activation", "summary_first_dropout", "summary_type"),
    *("summary_proj_to_labels", "summary_use_proj", "gradient_checkpointing", "max_length", "tokenizer_class"),
    *("reorder_and_upcast_attn", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner"),
    *("max_batch_size", "max_sequence_length", "pad_key_length", "pre_allocate_kv_cache", "validate_runner_input"),
    *("runner_max_sequence_length", "masked_softmax_fusion", "bias_dropout_fusion", "is_llama_config", "n_ctx"),
    *("return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "problem_type"),
    *("id2label", "label2id", "num_labels", "transformers.js_config", "_attn_implementation_autoset"),
    *("is_decoder", "is_encoder_decoder", "generation_config", "vocab_size", "tie_word_embeddings", "unsloth_version"),
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
UNGATED = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu"),
    **{"gelu": "gelu_exact", "relu": "relu", "silu": "silu", "swish": "silu"},
}
ACTIVATIONS = {"gelu": "gelu_new", "gelu_exact": "gelu", "relu": "relu", "silu": "silu"}


class Fields:
    """The fields of a config.json; unread ones are refused at the end."""

    def __init__(self, hf: Mapping[str, Any]) -> None:
        self.hf, self.known = hf, set(HARMLESS)

    def __getitem__(self, key: str) -> Any:
        self.known.add(key)
        return self.hf[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, or the default of transformers if it is absent."""
        self.known.add(key)
        return self.hf.get(key, default)

    def first(self, *keys: str) -> Any:
        """Return the first of several names of a field that is there; raises KeyError without any."""
        self.known.update(keys)
        return self.hf[next((key for key in keys if self.hf.get(key) is not None), keys[0])]

    def expect(self, key: str, *values: Any) -> None:
        """Refuse a field whose value is none of `values`; an absent one counts as the first."""
        value = self.get(key, values[0])
        require(value in values, key, value, "is not known here", f"it can be {values[0]}")

    def choose(self, key: str, default: Any, choices: Mapping[Any, str]) -> str:
        """Return our name of a field's value; raises UserError for an unknown one."""
        value = self.get(key, default)
        require(value in choices, key, value, "is not known here", f"it can be {', '.join(choices)}")
        return choices[value]

    def finish(self) -> None:
        """Refuse the fields that were not read, if they say anything."""
        for key in sorted(set(self.hf) - self.known):
            value = self.hf[key]
            why = f"is not known for model_type={self.hf['model_type']}, and may change what the model computes"
            require(value is None, key, value, why, "it cannot be imported exactly")


@dataclass(frozen=True)
class Naming:
    """The names of tensors in a format; `names` says which modules of theirs make up one of ours, row below row."""

    model_type: str
    names: Mapping[str, tuple[str, ...]] = field(kw_only=True)
    root: str = field(default="model.", kw_only=True)
    stack: str = field(default="layers", kw_only=True)
    head: str = field(default="lm_head", kw_only=True)
    transposed: bool = field(default=False, kw_only=True)  # weights of layers are (in, out)
    interleaved: bool = field(default=False, kw_only=True)  # query, key and value of one head below those before
    first_position: int = field(default=0, kw_only=True)  # rows of the position embedding before that of position 0
    halves: tuple[str, ...] = field(default=(), kw_only=True)  # modules of ours that are one of theirs together

    def theirs(self, name: str) -> list[str]:
        """Return the tensors that make up our tensor `name`, without the root before their names."""
        module, _, kind = name.rpartition(".")
        if module == "lm_head":
            return [f"{self.head}.{kind}"]
        prefix = ""
        if module.startswith("blocks."):
            _, layer, module = module.split(".", 2)
            prefix = f"{self.stack}.{layer}."
        return [f"{prefix}{each}.{kind}" for each in self.names[module]]

    def is_head(self, name: str) -> bool:
        """Tell whether one of their tensors belongs to the head, which has no root before its name."""
        return name.startswith(f"{self.head}.")


@dataclass(frozen=True)
class Family(Naming):
    """A kind of model of Hugging Face."""

    architecture: str
    read: Callable[[Fields], GPTConfig]
    write: Callable[[GPTConfig], dict[str, Any]]


ROPE = ("linear", "dynamic", "llama3", "yarn")
LONGROPE = ("longrope", "su")  # its old name
MEANINGLESS = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}


def rope_from(
    fields: Fields,
    block_size: int,
    fraction: float = 1.0,
    kinds: Collection[str] = ROPE,
    original: int | None = None,
) -> dict[str, Any]:
    """Return our fields of rotary positions; transformers 5 writes them otherwise than 4, and both are read.

    `original` is the original context where a family has it beside them, which counts there.
    """
    old = {"rope_theta": fields.get("rope_theta"), **(fields.get("rope_scaling") or {})}
    share = fields.get("partial_rotary_factor")
    found = {**old, **(fields.get("rope_parameters") or {})}
    if original is not None and (found.get("rope_type") or found.get("type") or "default") != "default":
        found["original_max_position_embeddings"] = original
    return rope_of(found, block_size, share or fraction, kinds)


def rope_of(rope: Mapping[str, Any], block_size: int, fraction: float, kinds: Collection[str]) -> dict[str, Any]:
    """Return our fields for rope_parameters; raises UserError for a kind of scaling that is not known."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    known = ("default", *kinds)
    require(kind in known, "rope_type", kind, "is not known here", f"it can be {', '.join(known)}")
    kind = "longrope" if kind in LONGROPE else kind
    theta = float(rope.get("rope_theta") or 10000.0)
    base = {"rope_base": theta, "rope_fraction": float(rope.get("partial_rotary_factor") or fraction)}
    read = {
        "default": set[str](),
        "linear": {"factor"},
        "dynamic": {"factor"},
        "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
        "yarn": {"factor", "beta_slow", "beta_fast", "original_max_position_embeddings", "attention_factor"}
        | {"mscale", "mscale_all_dim", "truncate"},
        "longrope": {"factor", "short_factor", "long_factor", "original_max_position_embeddings", "attention_factor"},
    }[kind]
    for key in sorted(set(rope) - read - MEANINGLESS):
        known_value = rope[key] is None or (key, rope[key]) == ("original_max_position_embeddings", block_size)
        require(known_value, f"rope.{key}", rope[key], f"is not known for {kind}", "it cannot be imported exactly")
    if kind == "default":
        return base
    original = int(rope.get("original_max_position_embeddings") or block_size)
    factor = float(rope.get("factor") or block_size / original)
    found = {**base, "rope_type": kind, "rope_factor": factor}
    if kind == "dynamic":
        return {**found, "rope_original": block_size}
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return {**found, "rope_low_freq": low, "rope_high_freq": high, "rope_original": original}
    if kind == "longrope":
        usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        magnitude = usual if rope.get("attention_factor") is None else rope["attention_factor"]
        factors = {"rope_short": list(rope["short_factor"]), "rope_long": list(rope["long_factor"])}
        return {**found, **factors, "rope_original": original, "rope_magnitude": float(magnitude)}
    if kind == "yarn":
        truncate = rope.get("truncate", True)
        require(bool(truncate), "rope.truncate", truncate, "is not known here", "it can be true")

        def stretched(scale: float) -> float:
            return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

        both = rope.get("mscale"), rope.get("mscale_all_dim")
        attention = stretched(both[0]) / stretched(both[1]) if both[0] and both[1] else stretched(1)
        if rope.get("attention_factor") is not None:
            attention = rope["attention_factor"]
        turns = {
            "rope_low_freq": float(rope.get("beta_slow") or 1),
            "rope_high_freq": float(rope.get("beta_fast") or 32),
        }
        return {**found, **turns, "rope_original": original, "rope_magnitude": float(attention)}
    return found


def rope_to(config: GPTConfig) -> dict[str, Any]:
    """Return the fields of a config.json that say the same, for transformers 5 and 4."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling:
        low, high, original = config.rope_low_freq, config.rope_high_freq, config.rope_original
        rope = {"rope_type": config.rope_type, "factor": config.rope_factor}
        if config.rope_type == "llama3":
            rope |= {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original}
        if config.rope_type == "yarn":
            rope |= {"beta_slow": low, "beta_fast": high, "original_max_position_embeddings": original}
            rope |= {"attention_factor": config.rope_magnitude}
        if config.rope_type == "longrope":
            rope |= {"short_factor": config.rope_short, "long_factor": config.rope_long}
            rope |= {"original_max_position_embeddings": original, "attention_factor": config.rope_magnitude}
    scaling = rope if config.rope_scaling else None
    share = {} if config.rope_fraction == 1 else {"partial_rotary_factor": config.rope_fraction}
    parameters = {"rope_theta": config.rope_base, **rope, **share}
    return {"rope_parameters": parameters, "rope_theta": config.rope_base, "rope_scaling": scaling, **share}


def full_every(full: list[bool]) -> int:
    """Return n if every n-th layer, and no other one, is true; 0 if none is. Raises UserError otherwise."""
    every = full.index(True) + 1 if True in full else 0
    if every and full != [(layer + 1) % every == 0 for layer in range(len(full))]:
        raise UserError("layer_types", full, "are not every n-th layer", "it cannot be imported exactly")
    return every


def window_from(fields: Fields, n_layer: int, window: int | None, every: int) -> dict[str, Any]:
    """Return our fields of a sliding window; without layer_types every `every`-th layer has none (0: no layer)."""
    types = fields.get("layer_types")
    if window is None:
        return {}
    if types is None:
        return {"window": window, "full_attention_every": every if every <= n_layer else 0}
    known = set(types) <= {"full_attention", "sliding_attention"}
    require(known, "layer_types", types, "is not known here", "full_attention and sliding_attention are")
    full = [each == "full_attention" for each in types[:n_layer]]
    if all(full):
        return {}
    with contextlib.suppress(UserError):  # in no such pattern
        return {"window": window, "full_attention_every": full_every(full)}
    return {"window": window, "window_layers": [layer for layer, each in enumerate(full) if not each]}


def layer_types(config: GPTConfig) -> list[str]:
    """Return the layer_types of a config.json."""
    return ["sliding_attention" if config.has_window(i) else "full_attention" for i in range(config.n_layer)]
