"""Tell how well a small size ranks alternatives that are meant for a large one (Magnusson et al. 2025, DataDecide)."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from gptlab.planning.scaling import Point


class Accuracy(NamedTuple):
    """The ranking by one size: the share of pairs of alternatives in the order that the largest size has them in."""

    parameters: float
    pairs: int
    accuracy: float


def decision_accuracies(points: Sequence[Point], alternatives: Sequence[str]) -> list[Accuracy]:
    """Return the decision accuracy of each size but the largest, smallest first.

    `alternatives` says which each point is of. A size's loss of an alternative is the mean over its runs with the most
    tokens. Pairs that either size does not tell apart count half.
    """
    sizes = sorted({each.parameters for each in points})
    losses = [_losses(points, alternatives, size) for size in sizes]
    found = []
    for size, small in zip(sizes[:-1], losses[:-1], strict=True):
        common = sorted(set(small) & set(losses[-1]))
        right = [_agreement(small, losses[-1], a, b) for a, b in combinations(common, 2)]
        if right:
            found.append(Accuracy(size, len(right), float(np.mean(right))))
    return found


def _losses(points: Sequence[Point], alternatives: Sequence[str], size: float) -> dict[str, float]:
    """Return the loss of each alternative at one size."""
    found: dict[str, list[Point]] = {}
    for point, name in zip(points, alternatives, strict=True):
        if point.parameters == size:
            found.setdefault(name, []).append(point)
    most = {name: max(each.tokens for each in of) for name, of in found.items()}
    return {name: float(np.mean([p.loss for p in of if p.tokens == most[name]])) for name, of in found.items()}


def _agreement(small: Mapping[str, float], large: Mapping[str, float], a: str, b: str) -> float:
    return (1 + float(np.sign(small[a] - small[b]) * np.sign(large[a] - large[b]))) / 2
