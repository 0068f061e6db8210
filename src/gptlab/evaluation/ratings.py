"""Say of people's ratings how good texts are, how far raters agree, and what the order of two texts does to them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.errors import UserError
from gptlab.evaluation.crossed import LEVEL, Array, numbered, resampled

CHOICES = ("left", "right", "tie")
Z = statistics.NormalDist().inv_cdf(0.5 + LEVEL / 2)


def require_evalica() -> None:
    """Raise UserError if evalica is not installed, before any work is done."""
    try:
        import evalica  # noqa: F401
    except ImportError as error:
        raise UserError("report", "true", f"needs {error.name}", "pip install 'gptlab[app]'") from error


@dataclass(frozen=True)
class Answer:
    """An answer of a rater about the texts of one or two sources for a prompt.

    `said` is one of CHOICES where there are two (`right` is not None), or else the score of each criterion.
    """

    rater: str
    prompt: int
    left: str
    right: str | None
    said: Any
    at: float = 0.0  # seconds since 1970


@dataclass(frozen=True)
class Interval:
    """An estimate, and the interval that holds the truth with probability LEVEL."""

    value: float
    low: float
    high: float

    def record(self) -> dict[str, float]:
        """Return the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def mean_scores(answers: Sequence[Answer], resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Return the mean score of each criterion for each source, with its interval."""
    scored = [each for each in answers if each.right is None]
    if not scored:
        return {}
    criteria, sources = list(scored[0].said), list(dict.fromkeys(each.left for each in scored))
    prompt, rater = (numbered([getattr(each, key) for each in scored]) for key in ("prompt", "rater"))
    of = np.array([[each.left == source for source in sources] for each in scored], dtype=float)
    said = np.array([[each.said[criterion] for criterion in criteria] for each in scored], dtype=float)

    def means(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a draw without any text of a source is left out
            return (((of * weights[:, None]).T @ said) / (weights @ of)[:, None]).ravel()

    found = resampled(prompt, rater, means, resamples, seed)
    half = found.quantile(1 - LEVEL) * np.sqrt(found.variance())
    each = iter(zip(found.value.tolist(), (found.value - half).tolist(), (found.value + half).tolist(), strict=True))
    return {source: {criterion: Interval(*next(each)) for criterion in criteria} for source in sources}


def agreement(answers: Sequence[Answer]) -> dict[str, float | None]:
    """Return Krippendorff's alpha (2011) of the raters: of their choices (nominal), or of each criterion (ordinal).

    1: they all say the same of everything; 0: no more alike than chance. None where no two raters judged the same.
    """
    of: dict[str, tuple[Any, dict[tuple[Any, ...], dict[str, float]]]] = {}
    for each in answers:
        if each.right is None:
            for criterion, score in each.said.items():
                of.setdefault(criterion, ("ordinal", {}))[1].setdefault((each.prompt, each.left), {})[each.rater] = (
                    score
                )
        else:
            first, second = sorted((each.left, each.right))
            first_won = {"left": each.left == first, "right": each.right == first}.get(each.said)
            value = 0.0 if first_won is None else 1.0 if first_won else -1.0
            of.setdefault("choice", ("nominal", {}))[1].setdefault((each.prompt, first, second), {})[each.rater] = value
    return {name: _alpha(units, distance) for name, (distance, units) in of.items()}


def _alpha(units: Mapping[Any, Mapping[str, float]], distance: Any) -> float | None:
    import evalica
    import pandas as pd

    shared = [unit for unit in units.values() if len(unit) > 1]
    raters = sorted({rater for unit in shared for rater in unit})
    values = [[unit.get(rater, math.nan) for unit in shared] for rater in raters]
    if len({value for unit in shared for value in unit.values()}) < 2:
        return None
    return float(evalica.alpha(pd.DataFrame(values), distance=distance).alpha)


def order_bias(answers: Sequence[Answer]) -> dict[str, Interval]:
    """Return how often each rater, and all together (`all`), chose the left text, with Wilson's interval.

    Ties are left out. The sides are drawn, so it is a half for a rater who pays no heed to them.
    """
    chosen: dict[str, list[bool]] = {"all": []}
    for each in answers:
        if each.right is not None and each.said != "tie":
            chosen["all"].append(each.said == "left")
            chosen.setdefault(each.rater, []).append(each.said == "left")
    return {name: wilson(sum(found), len(found)) for name, found in chosen.items() if found}


def wilson(k: float, n: int) -> Interval:
    """Return the share k/n with the score interval of Wilson (1927)."""
    p, square = k / n, Z * Z / n
    middle, half = (p + square / 2) / (1 + square), Z * math.sqrt(p * (1 - p) / n + square / 4 / n) / (1 + square)
    return Interval(p, max(0.0, middle - half) if k else 0.0, min(1.0, middle + half) if k < n else 1.0)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's correlation of two lists; None for fewer than three, or where one is constant."""
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def preferred(answers: Sequence[Answer]) -> list[tuple[int, str, str]]:
    """Return (prompt, the preferred source, the other) for each compared pair that most of its raters agree about."""
    score: dict[tuple[int, str, str], float] = {}
    for each in answers:
        if each.right is not None and each.said != "tie":
            better, worse = (each.left, each.right) if each.said == "left" else (each.right, each.left)
            score[each.prompt, better, worse] = score.get((each.prompt, better, worse), 0) + 1
    pairs = {(prompt, min(a, b), max(a, b)) for prompt, a, b in score}
    found = []
    for prompt, a, b in sorted(pairs):
        more = score.get((prompt, a, b), 0) - score.get((prompt, b, a), 0)
        if more:
            found.append((prompt, a, b) if more > 0 else (prompt, b, a))
    return found
