"""Compute causal self-attention (Vaswani et al. 2017, eq. 1, masked), with grouped queries (Ainslie et al. 2023)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.layers import ZeroCenteredRMSNorm
from gptlab.model.positions import Rotation, distances, rotate
from gptlab.model.shape import GPTShape


class CausalSelfAttention(nn.Module):
    """The attention of every position to itself and to those before it, (B, T, C) -> (B, T, C).

    `n_head` queries share `n_kv_head` keys and values. `qk_norm` normalizes queries and keys before they are rotated.
    """

    def __init__(self, config: GPTShape) -> None:
        super().__init__()
        c = config
        self.n_head, self.n_kv_head, self.head_dim = c.n_head, c.kv_heads, c.head_dim
        qkv_bias, proj_bias = (c.bias if bias is None else bias for bias in (c.qkv_bias, c.proj_bias))
        self.qkv = nn.Linear(c.n_embd, (c.n_head + 2 * c.kv_heads) * c.head_dim, bias=qkv_bias)
        self.proj = nn.Linear(c.n_head * c.head_dim, c.n_embd, bias=proj_bias)
        self.all_heads = c.qk_norm_over == "all"
        self.q_norm, self.k_norm = _qk_norm(c, c.n_head), _qk_norm(c, c.kv_heads)
        self.clip = c.qkv_clip
        self.scale, self.softcap = c.scores_scale, c.attention_softcap
        self.attn_dropout = c.dropout
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        bias: Tensor | None = None,
        cache: "KVCache | None" = None,
        layer: int = 0,
    ) -> Tensor:
        q, k, v = self._projected(x, rotation)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
            q = cache.queries(layer, q.to(k.dtype))
        y = attend(q, k, v, bias, self.attn_dropout if self.training else 0.0, self.scale, self.softcap)
        return self.dropout(self.proj(y.transpose(1, 2).flatten(2).to(x.dtype)))

    def weights(self, x: Tensor, rotation: Rotation | None = None, bias: Tensor | None = None) -> Tensor:
        """Return the weights (B, H, T, T) by which each position of x sums values; row t has those of position t."""
        q, k, _ = self._projected(x, rotation)
        return _scores(q.float(), k.float(), bias, self.scale, self.softcap).softmax(-1)

    def _projected(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of x (B, T, C), (B, H, T, D) each."""
        heads = (self.n_head, self.n_kv_head, self.n_kv_head)
        qkv = self.qkv(x) if not self.clip else self.qkv(x).clamp(-self.clip, self.clip)
        q, k, v = qkv.unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(heads, dim=1)
        q, k = self._normalized(self.q_norm, q), self._normalized(self.k_norm, k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def _normalized(self, norm: nn.Module, x: Tensor) -> Tensor:
        if not self.all_heads:
            each: Tensor = norm(x)
            return each
        B, H, T, D = x.shape
        flat: Tensor = norm(x.transpose(1, 2).reshape(B, T, H * D))
        return flat.view(B, T, H, D).transpose(1, 2)


def _qk_norm(config: GPTShape, heads: int) -> nn.Module:
    """Return the norm of queries or keys: an RMSNorm over each head, or over all of them."""
    if not config.qk_norm:
        return nn.Identity()
    width = config.head_dim * (heads if config.qk_norm_over == "all" else 1)
    kind = ZeroCenteredRMSNorm if config.norm == "zero_centered_rms" else nn.RMSNorm
    return kind(width, eps=config.qk_norm_eps)


@dataclass(frozen=True)
class CacheShape:
    """The sizes of what a model keeps of a token: a key and a value of each layer and key-value head."""

    n_layer: int
    n_kv_head: int
    head_dim: int
    like: Tensor  # a weight, whose device and number format they have

    def buffers(self, batch: int, size: int) -> list[Tensor]:
        """Return empty keys or values of `size` tokens of each row, (B, H, size, D) for each layer."""
        # the attention of one query is several times as fast in fp32 as in bf16 on a CPU (benchmarks/attention.py)
        dtype = torch.float32 if self.like.device.type == "cpu" else self.like.dtype
        shape = (batch, self.n_kv_head, size, self.head_dim)
        return [torch.zeros(shape, dtype=dtype, device=self.like.device) for _ in range(self.n_layer)]


class KVCache:
    """The keys and values of the tokens read so far, in buffers of a fixed `size`; prompts of one batch end together.

    `padding` (B,) counts the empty columns on the left, if prompts are not equally long.
    """

    def __init__(self, shape: CacheShape, batch: int, size: int, padding: Tensor | None = None) -> None:
        self.keys, self.values = shape.buffers(batch, size), shape.buffers(batch, size)
        self.size, self.padding = size, padding
        self.length = 0  # columns that are filled

    @property
    def batch(self) -> int:
        """The number of rows."""
        return self.keys[0].shape[0]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, T, D) of a layer; return all of its keys and values so far."""
        end = self.length + k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def queries(self, layer: int, q: Tensor) -> Tensor:
        """Return the queries (B, H, T, D) of a layer as its keys in the cache need them."""
        return q

    def advance(self, T: int) -> None:
        """Count the T tokens whose keys and values all layers have appended."""
        self.length += T

    def columns(self, T: int) -> Tensor:
        """Return the columns of the next T tokens, (T,)."""
        return torch.arange(self.length, self.length + T, device=self.keys[0].device)

    def distances(self, T: int) -> Tensor:
        """Return how far the next T tokens are behind each key that they look at, (T, S) or (B, T, S)."""
        return distances(self.columns(T), torch.arange(self.length + T, device=self.keys[0].device))

    def positions(self, T: int) -> Tensor:
        """Return the positions of the next T tokens, (T,), or (B, T) if rows begin at different columns."""
        columns = self.columns(T)
        return columns if self.padding is None else (columns - self.padding[:, None]).clamp(min=0)

    def mask(self, T: int) -> Tensor | None:
        """Return the bias on the scores of the next T tokens, (B or 1, 1, T, S); None for causal attention."""
        if self.padding is None and (T == 1 or self.length == 0):
            return None
        device, end = self.keys[0].device, self.length + T
        at, keys = torch.arange(self.length, end, device=device), torch.arange(end, device=device)
        hidden = keys[None, None, :] > at[None, :, None]  # (1, T, S)
        if self.padding is not None:
            empty = keys[None, None, :] < self.padding[:, None, None]
            hidden = hidden | (empty & (keys[None, :] != at[:, None])[None])  # padding sees itself: no row is empty
        return torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf).unsqueeze(1)

    def select(self, rows: Tensor) -> None:
        """Make row i the continuation of row `rows[i]`; the number of rows may change."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        if self.padding is not None:
            self.padding = self.padding[rows]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    dropout: float,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """Compute causal attention of q (B, H, T, D) over k, v (B, H or fewer, S, D); T is S, or 1 for the last of S.

    A `bias` on the scores, (T, S), (H, T, S) or (B, 1 or H, T, S), brings its own mask. Scores are multiplied by
    `scale`, 1 / sqrt(D) of the values by default, and with a `softcap` c they become c tanh(scores / c).
    """
    if scale is None and q.shape[-1] != v.shape[-1]:
        scale = 1 / math.sqrt(v.shape[-1])
    grouped = q.shape[1] != k.shape[1]
    if q.shape[2] == 1 and bias is None and not softcap:
        return F.scaled_dot_product_attention(q, k, v, None, dropout, scale=scale, enable_gqa=grouped)
    if bias is not None:
        bias = bias.to(q.dtype)
    if softcap or _products_are_faster(q):
        return _attend_by_products(q, k, v, bias, dropout, scale, softcap)
    causal = bias is None
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, is_causal=causal, scale=scale, enable_gqa=grouped)


def _products_are_faster(q: Tensor) -> bool:
    """Return whether the fused kernel is slower (benchmarks/attention.py): in bf16 on a CPU, up to 256 tokens."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= 256


def _attend_by_products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    dropout: float,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    scores, groups = _scores(q, k, bias, scale, softcap), q.shape[1] // v.shape[1]
    if groups > 1:
        v = v.repeat_interleave(groups, dim=1)
    return F.dropout(scores.softmax(-1).to(v.dtype), dropout) @ v


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, scale: float | None, softcap: float) -> Tensor:
    """Return the scores (B, H, T, S) of causal attention, before the softmax; the arguments are those of `attend`."""
    T, groups = q.shape[2], q.shape[1] // k.shape[1]
    if groups > 1:
        k = k.repeat_interleave(groups, dim=1)
    scores = (q / math.sqrt(q.shape[-1]) if scale is None else q * scale) @ k.mT
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    elif T > 1:
        at = torch.arange(T, dtype=torch.int32, device=q.device)  # compiled, int64 would take twice the time
        scores = scores.masked_fill(at > at[:, None], -torch.inf)
    return scores
