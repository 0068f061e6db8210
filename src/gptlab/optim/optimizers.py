"""Optimizers: each a dataclass of settings that builds itself for a model."""

from dataclasses import dataclass

import torch
from torch import nn

from gptlab.errors import require


@dataclass
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), on matrices only, as GPT-2 and GPT-3 do."""

    lr: float = 6e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    fused: bool = True

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "is not above 0", "try 0.001 for a small model")
        for key in ("beta1", "beta2"):
            beta = getattr(self, key)
            require(0 <= beta < 1, key, beta, "is not in [0, 1)", "0.9 and 0.95 are usual")
        require(self.eps > 0, "eps", self.eps, "is not above 0", "1e-8 is usual")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "is negative", "0 turns it off")

    def build(self, gpt: nn.Module) -> torch.optim.AdamW:
        params = [p for p in gpt.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, fused=self.fused)
