"""One dial for the size of a model: the depth, from which its layers, heads and width follow."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from gptlab.errors import require
from gptlab.model.config import GPTConfig
from gptlab.model.shape import GPTShape
from gptlab.registry import option

if TYPE_CHECKING:
    from torch import nn


@option("model", "dial")
@dataclass
class Dial(GPTShape):
    """A GPT of as many layers and heads as its depth, whose heads are `aspect` wide: 12 and 64 are GPT-2 small."""

    depth: int = 4  # layers, and heads in each of them
    aspect: int = 32  # width of a head, so that the model is depth times as wide; 64 is usual for large ones
    n_layer: int = 0  # blocks, each attention and a feed-forward; 0: depth
    n_head: int = 0  # heads of attention in each block; 0: depth
    n_embd: int = 0  # width of the residual stream; 0: depth times aspect
    block_size: int = 128  # context: tokens that the model reads at once
    vocab_size: int = 0  # 0: as many as the tokenizer has; more are padding, never drawn

    def __post_init__(self) -> None:
        for key in ("depth", "aspect"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1", "give a positive integer")
        self.n_layer = self.n_layer or self.depth
        self.n_head = self.n_head or self.depth
        self.n_embd = self.n_embd or self.depth * self.aspect
        super().__post_init__()

    def shape(self) -> GPTConfig:
        """Return the config of the GPT that the dial is set to; a run knows no dial."""
        return GPTConfig(**{f.name: getattr(self, f.name) for f in fields(GPTShape)})

    def build(self) -> nn.Module:
        """Return a GPT of this shape."""
        return self.shape().build()
