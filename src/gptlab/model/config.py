"""The config of a model: what that of any model has, and that of gptlab's GPT; importable without torch.

A model of another package is a dataclass that is registered as an option of the group `model`. A model and its config
may have more than they must; what is asked for and needs more is refused in one line, or done without:

| of the config | who uses it | without it |
|---|---|---|
| `flops_per_token()` | train/mfu, budget.flops, reports | 6 for each parameter |
| `reads_beyond`, a truth value | evaluate and compare with block_size=N | at most the config's block_size |
| `n_embd` | the learning rates of conf/optimizer | that of GPT-2 small |
| `parametrization`, `width_ratio`, `depth_ratio` | rates that go with sizes, in `blocks` | one rate for all |
| `dropout` | debug=overfit, check | debug=overfit is refused |

| of the model | who uses it | without it |
|---|---|---|
| `new_cache(batch, size, padding)` and `forward(idx, cache=)` | generation | the text is read again for every token |
| `forward(idx, cache=, last=)`: logits (B, 1, V) after the last ids | generation | all those of a prompt are computed |
| `new_slots()`, a cache that texts join and leave (model/slots.py) | serve | the text is read again for every token |
| `has_ring`, a truth value: the two take `ring=N`, and keep the last N tokens of each text | overflow=ring | refused |
| `has_sinks`, a truth value: the two take `sinks=K`, too, and keep the first K and the last N - K | sinks | refused |
| `reads_again_beyond`, a number of tokens or None: a text that grows beyond is read again | the same | not done |
| `forward(idx, documents=)` | data.mask_documents | refused |
| `hidden(idx)` (B, T, C) and `logits(hidden)` | loss=chunked | refused |
| `hidden(idx)`, with `n_embd` of the config, and the head as `lm_head` | task=classification | refused |
| `recompute`, a truth value that is set | trainer.activation_checkpointing | refused |
| `blocks`, a list of modules | optimizer=muon | refused |
| the same | trainer=fsdp, which gathers one of them at a time | all weights are gathered at once |
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gptlab.errors import require
from gptlab.model.shape import GPTShape
from gptlab.registry import option

if TYPE_CHECKING:
    from torch import nn


class ModelConfig(Protocol):
    """The config of a model: a dataclass of plain values that builds it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    block_size: int  # the most tokens that the model is trained on at once
    vocab_size: int  # 0: as many as the tokenizer has

    def build(self) -> nn.Module:
        """Return a new model: token ids (B, T) in, logits of each next token (B, T, V) out."""


@option("model", "gpt")
@dataclass
class GPTConfig(GPTShape):
    """The shape of a GPT; the defaults are GPT-2 small."""

    def build(self) -> nn.Module:
        """Return a GPT of this shape."""
        from gptlab.model.gpt import GPT

        return GPT(self)


def build_model(config: ModelConfig) -> Any:
    """Return a new model, whose `config` is the one that built it."""
    model: Any = config.build()
    model.config = config
    return model


def require_model_config(config: Any) -> None:
    """Refuse a config that lacks what that of any model has."""
    kind = type(config).__name__
    fields = {f.name for f in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set()
    for key in ("block_size", "vocab_size"):
        require(key in fields, "model", kind, f"has no field {key}", f"give the dataclass {kind} {key}: int")
    has_build = callable(getattr(config, "build", None))
    require(has_build, "model", kind, "has no build()", f"give {kind} a method that returns its nn.Module")
    size = config.block_size
    require(
        isinstance(size, int) and size >= 1, "model.block_size", size, "must be at least 1", "give a positive integer"
    )
