"""Give a Transformer the positions of tokens: rotary and linear-bias ones (learned ones are an embedding)."""

import math

import torch
from torch import Tensor

from gptlab.model.shape import RopeScaling

Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, D/2) or (B, 1, T, D/2) each


def rotation(at: Tensor, head_dim: int, base: float, scaling: RopeScaling | None) -> Rotation:
    """Return the rotations of positions `at`, (T,) or (B, T), as cosines and sines.

    The angle of pair i at position t is t / base^(2i/D) (Su et al. 2021, eq. 15).
    """
    frequency = base ** (-torch.arange(0, head_dim, 2, device=at.device, dtype=torch.float32) / head_dim)
    if scaling is not None:
        turns = scaling.original * frequency / (2 * math.pi)
        kept = ((turns - scaling.low_freq) / (scaling.high_freq - scaling.low_freq)).clamp(0, 1)
        frequency = frequency * (kept + (1 - kept) / scaling.factor)
    angle = at[..., None].float() * frequency
    if at.dim() == 2:
        angle = angle[:, None]  # the same for all heads
    return angle.cos(), angle.sin()


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of x (B, H, T, D) by its angle: Llama's and GPT-NeoX's pairing."""
    cos, sin = (part.to(x.dtype) for part in by)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def alibi_slopes(n_head: int) -> list[float]:
    """Return the slope of each head: a geometric sequence from 2^(-8/H), (H,).

    If H is not a power of two, the sequence is that of the power below it, and every second slope of the power above.
    """
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    between = [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * below, 2)]
    return slopes + between[: n_head - below]


def alibi_bias(n_head: int, queries: Tensor, keys: Tensor) -> Tensor:
    """Return the bias of each head on its scores, (H, T, S): -slope x distance, -inf ahead (Press et al. 2022).

    `queries` (T,) and `keys` (S,) are their positions.
    """
    distance = (queries[:, None] - keys[None, :]).float()
    slopes = torch.tensor(alibi_slopes(n_head), device=queries.device)
    return (-slopes[:, None, None] * distance).masked_fill(distance < 0, -torch.inf)


def within(documents: Tensor) -> Tensor:
    """Return the bias on scores by which only earlier positions of the same document count, (B, 1, T, T)."""
    T = documents.shape[1]
    behind = torch.ones(T, T, dtype=torch.bool, device=documents.device).tril()
    seen = behind & (documents[:, :, None] == documents[:, None, :])
    return torch.zeros(seen.shape, device=documents.device).masked_fill(~seen, -torch.inf).unsqueeze(1)


def first_of(documents: Tensor) -> Tensor:
    """Return the position where each position's document begins, (B, T); documents are numbered in order."""
    return torch.searchsorted(documents, documents)
