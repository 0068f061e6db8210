"""Causal self-attention (Vaswani et al. 2017, eq. 1, masked), with grouped queries (Ainslie et al. 2023)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.positions import Rotation, rotate


class CausalSelfAttention(nn.Module):
    """Every position attends to itself and to what came before it, (B, T, C) -> (B, T, C).

    `n_head` queries share `n_kv_head` keys and values. `qk_norm` normalizes queries and keys before they are rotated.
    """

    def __init__(
        self, n_embd: int, n_head: int, n_kv_head: int, dropout: float, bias: bool, qkv_bias: bool, qk_norm: bool
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = n_head, n_kv_head, n_embd // n_head
        self.qkv = nn.Linear(n_embd, (n_head + 2 * n_kv_head) * self.head_dim, bias=qkv_bias)
        self.proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.q_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.attn_dropout = dropout
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Rotation | None = None, bias: Tensor | None = None) -> Tensor:
        heads = (self.n_head, self.n_kv_head, self.n_kv_head)
        q, k, v = self.qkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(heads, dim=1)  # (B, H, T, D)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        y = attend(q, k, v, bias, self.attn_dropout if self.training else 0.0)
        return self.dropout(self.proj(y.transpose(1, 2).flatten(2)))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Causal attention of q (B, H, T, D) over k, v (B, H or fewer, T, D).

    A `bias` on the scores, (H, T, T) or (B, 1 or H, T, T), brings its own mask.
    """
    if bias is not None:
        bias = bias.to(q.dtype)
    if _products_are_faster(q):
        return _attend_by_products(q, k, v, bias, dropout)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, is_causal=bias is None, enable_gqa=grouped)


def _products_are_faster(q: Tensor) -> bool:
    """Where the fused kernel loses by benchmarks/attention.py: in bf16 on a CPU, up to 256 tokens."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= 256


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    T, groups = q.shape[2], q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, T)
    if bias is None:
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1), -torch.inf)
    else:
        scores = scores + bias
    return F.dropout(scores.softmax(-1).to(v.dtype), dropout) @ v
