"""Give a Transformer the positions of tokens: rotary and linear-bias ones (learned ones are an embedding)."""

import math

import torch
from torch import Tensor

from gptlab.model.shape import RopeScaling

Rotation = tuple[Tensor, Tensor]  # cosines and sines, (T, D/2) or (B, 1, T, D/2) each


def rotation(
    at: Tensor,
    width: int,
    base: float,
    scaling: RopeScaling | None,
    magnitude: float = 1.0,
    length: Tensor | None = None,
) -> Rotation:
    """Return the rotations of positions `at`, (T,) or (B, T), as cosines and sines.

    `length`, (1,), (B, 1) or (B, T), counts the tokens of the text of each; without it a row is one text up to its end.

    Positions that may be far beyond 10^4 are given in float64: in float32 their angles are rounded too much.

    The angle of pair i at position t is t / base^(2i/D) (Su et al. 2021, eq. 15), where D is the rotated `width`.
    """
    power = -torch.arange(0, width, 2, device=at.device, dtype=torch.float32) / width
    frequency, length = base**power, (at[..., -1:] + 1 if length is None else length)[..., None]
    if scaling is not None and scaling.type == "dynamic":
        longer = length.clamp(min=scaling.original) / scaling.original
        frequency = frequency * (scaling.factor * longer - (scaling.factor - 1)) ** (power * width / (width - 2))
    elif scaling is not None:
        frequency = frequency * slowed(frequency, scaling, width, base, length)
    at = at if at.is_floating_point() else at.float()
    angle = at[..., None] * frequency  # (T, D/2) or (B, T, D/2)
    if angle.dim() == 3:
        angle = angle[:, None]  # the same for all heads
    cos, sin = angle.cos().float(), angle.sin().float()
    return (cos, sin) if magnitude == 1 else (magnitude * cos, magnitude * sin)


def slowed(frequency: Tensor, scaling: RopeScaling, width: int, base: float, length: Tensor) -> Tensor | float:
    """Return the factor of each frequency: 1 / scaling.factor for slow rotations, 1 for fast ones."""
    match scaling.type:
        case "linear":
            return 1 / scaling.factor
        case "longrope":
            short, long = (torch.tensor(each, device=frequency.device) for each in (scaling.short, scaling.long))
            return 1 / torch.where(length > scaling.original, long, short)
        case "yarn":  # the change is linear in the number of the pair
            fast, slow = (
                width * math.log(scaling.original / (turns * 2 * math.pi)) / (2 * math.log(base))
                for turns in (scaling.high_freq, scaling.low_freq)
            )
            first, last = max(math.floor(fast), 0), min(math.ceil(slow), width - 1)
            pairs = torch.arange(width // 2, dtype=torch.float32, device=frequency.device)
            kept = 1 - ((pairs - first) / (last - first if last > first else 0.001)).clamp(0, 1)
        case _:  # and here in its turns
            turns = scaling.original * frequency / (2 * math.pi)
            kept = ((turns - scaling.low_freq) / (scaling.high_freq - scaling.low_freq)).clamp(0, 1)
    return kept + (1 - kept) / scaling.factor


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) of x (B, H, T, D) by its angle: Llama's and GPT-NeoX's pairing.

    If `by` has fewer than D/2 angles, the last components are kept.
    """
    cos, sin = (part.to(x.dtype) for part in by)
    width = 2 * cos.shape[-1]
    a, b = x[..., :width].chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., width:]], dim=-1)


def alibi_slopes(n_head: int) -> list[float]:
    """Return the slope of each head: a geometric sequence from 2^(-8/H), (H,).

    If H is not a power of two, the sequence is that of the power below it, and every second slope of the power above.
    """
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    between = [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * below, 2)]
    return slopes + between[: n_head - below]


def distances(queries: Tensor, keys: Tensor) -> Tensor:
    """Return how far each query's position, (T,) or (B, T), is behind each key's, (S,) or (B, S): (..., T, S)."""
    return queries[..., :, None] - keys[..., None, :]


def alibi_bias(n_head: int, distance: Tensor) -> Tensor:
    """Return the bias of each head on its scores: -slope x distance, -inf ahead (Press et al. 2022).

    It is (H, T, S) for a `distance` (T, S) of queries from keys, and (B, H, T, S) for (B, T, S).
    """
    distance = distance.float().unsqueeze(-3)
    slopes = torch.tensor(alibi_slopes(n_head), device=distance.device)
    return (-slopes[:, None, None] * distance).masked_fill(distance < 0, -torch.inf)


def recent(distance: Tensor, window: int) -> Tensor:
    """Return the bias on scores by which only the last `window` positions count (Beltagy et al. 2020).

    It is (T, S) for a `distance` (T, S) of queries from keys, and (B, 1, T, S) for (B, T, S).
    """
    hidden = (distance < 0) | (distance >= window)
    hidden = hidden if distance.dim() == 2 else hidden[:, None]
    return torch.zeros(hidden.shape, device=distance.device).masked_fill(hidden, -torch.inf)


def within(documents: Tensor) -> Tensor:
    """Return the bias on scores by which only earlier positions of the same document count, (B, 1, T, T)."""
    T = documents.shape[1]
    behind = torch.ones(T, T, dtype=torch.bool, device=documents.device).tril()
    seen = behind & (documents[:, :, None] == documents[:, None, :])
    return torch.zeros(seen.shape, device=documents.device).masked_fill(~seen, -torch.inf).unsqueeze(1)


def lengths(documents: Tensor) -> Tensor:
    """Return how many positions the document of each position has, (B, T); documents are numbered in order."""
    return torch.searchsorted(documents, documents, right=True) - first_of(documents)


def first_of(documents: Tensor) -> Tensor:
    """Return the position where each position's document begins, (B, T); documents are numbered in order."""
    return torch.searchsorted(documents, documents)
