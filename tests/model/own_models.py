"""Models of another package: one that has what any must have, one that has all that a GPT has, and the smallest."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gptlab
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT


class RNN(nn.Module):
    """A GRU over embedded ids (B, T), then logits (B, T, V)."""

    def __init__(self, vocab_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)  # is in no checkpoint

    def forward(self, idx: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(idx))
        logits: Tensor = self.head(self.dropout(states)) * self.scale
        return logits


@gptlab.option("model", "rnn")
@dataclass
class RNNConfig:
    """The least that a model has, with dropout."""

    width: int = 16
    block_size: int = 32
    vocab_size: int = 0
    dropout: float = 0.0

    def build(self) -> nn.Module:
        return RNN(self.vocab_size, self.width, self.dropout)


@gptlab.option("model", "bigram")
@dataclass
class Bigram:
    """Predict each token from the one before it alone."""

    block_size: int = 32
    vocab_size: int = 0

    def build(self) -> nn.Module:
        return nn.Embedding(self.vocab_size, self.vocab_size)

    def flops_per_token(self) -> float:
        return 5.0


class ModernGPT(GPT):
    """A GPT with logits of its own."""

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden) * 1.5


@gptlab.option("model", "modern")
@dataclass
class ModernConfig(GPTConfig):
    """All that a GPT has."""

    def build(self) -> nn.Module:
        return ModernGPT(self)


@dataclass
class Unfinished:
    """A config that does not say what it must."""

    block_size: int = 32

    def build(self) -> Any:
        return None
