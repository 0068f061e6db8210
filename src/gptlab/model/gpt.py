"""GPT-2 (Radford et al. 2019): a decoder-only Transformer with pre-LayerNorm and learned positions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptlab.errors import require
from gptlab.model.attention import CausalSelfAttention
from gptlab.model.layers import MLP


@dataclass
class GPTConfig:
    """The shape of a GPT; the defaults are GPT-2 small."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50257  # 0: as many as the tokenizer has
    dropout: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        for key in ("n_layer", "n_head", "n_embd", "block_size"):
            value = getattr(self, key)
            require(value >= 1, key, value, "must be at least 1", "give a positive integer")
        heads = [h for h in range(1, min(self.n_embd, 64) + 1) if self.n_embd % h == 0]
        require(
            self.n_embd % self.n_head == 0,
            "n_head",
            self.n_head,
            f"does not divide n_embd={self.n_embd}",
            f"choose one of {', '.join(map(str, heads))}",
        )
        require(self.vocab_size >= 0, "vocab_size", self.vocab_size, "is negative", "0 takes the tokenizer's")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "is not in [0, 1)", "0.0 turns it off")


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config.n_embd, config.n_head, config.dropout, config.bias)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config.n_embd, config.dropout, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Token ids (B, T) in, next-token logits (B, T, V) out; T <= block_size."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        require(config.vocab_size >= 1, "vocab_size", config.vocab_size, "is unknown", "take the tokenizer's")
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight  # tied (Press & Wolf 2017)
        self.apply(self._init)

    def _init(self, layer: nn.Module) -> None:
        """GPT-2's: normal, sd 0.02, divided by sqrt(2 n_layer) where a layer adds to the residual stream."""
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if isinstance(layer, CausalSelfAttention | MLP):
            nn.init.normal_(layer.proj.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def forward(self, idx: Tensor) -> Tensor:
        T = idx.shape[1]
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens do not fit into block_size={self.config.block_size}")
        x = self.dropout(self.wte(idx) + self.wpe(torch.arange(T, device=idx.device)))  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def num_params(gpt: nn.Module) -> int:
    """Trainable numbers; tied ones count once."""
    return sum(p.numel() for p in gpt.parameters() if p.requires_grad)
