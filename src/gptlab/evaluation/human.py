"""Estimate from what people said which texts they prefer, and how sure that is.

Pairs give win rates and Bradley-Terry strengths with ties (Davidson 1970), fitted by evalica; scores give means. All
intervals come from drawing prompts, and raters, with replacement: answers about one prompt, or by one person, are
alike, so that their number says less than it seems to.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from gptlab.errors import UserError

Array = np.ndarray[Any, np.dtype[np.float64]]
CHOICES = ("left", "right", "tie")
LEVEL = 0.95
PRIOR = 0.5  # ties that are added to each pair of sources, so that one that never lost has a finite strength
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


@dataclass(frozen=True)
class Standing:
    """A source among the others: its win rate against them all, and the places that it may have."""

    source: str
    win_rate: Interval  # the probability to be preferred, with half of that of a tie, averaged over the other sources
    strength: float  # natural logarithm of the Bradley-Terry strength; the mean over sources is 0
    best: int  # one more than the sources that are surely better
    worst: int  # the number of sources less those that are surely worse
    answers: int


@dataclass(frozen=True)
class Pairs:
    """Comparisons as arrays, one place each: the numbers of sources, prompts and raters, and who won."""

    sources: list[str]
    left: Any
    right: Any
    won: Array  # by the left: 1, 0, or 0.5 for a tie
    prompt: Any
    rater: Any

    @classmethod
    def of(cls, answers: Sequence[Answer], sources: Sequence[str]) -> Pairs:
        """Return the comparisons among answers; `sources` are all there are, in the order of reports."""
        asked = [each for each in answers if each.right is not None]
        number = {name: n for n, name in enumerate(sources)}
        won = [{"left": 1.0, "right": 0.0, "tie": 0.5}[each.said] for each in asked]
        places = ([number[each.left] for each in asked], [number[str(each.right)] for each in asked])
        left, right = (np.array(each, dtype=int) for each in places)
        prompt, rater = (_numbered([getattr(each, key) for each in asked]) for key in ("prompt", "rater"))
        return cls(list(sources), left, right, np.array(won), prompt, rater)

    def tables(self, weights: Array) -> tuple[Array, Array]:
        """Return wins[i, j], how often i was preferred to j, and ties[i, j], each comparison with its weight."""
        n = len(self.sources)
        wins, ties = np.zeros((n, n)), np.zeros((n, n))
        for table, which in ((wins, self.won == 1), (wins.T, self.won == 0), (ties, self.won == 0.5)):
            np.add.at(table, (self.left[which], self.right[which]), weights[which])
        return wins, ties + ties.T


def _numbered(values: Sequence[Any]) -> Any:
    number = {value: n for n, value in enumerate(sorted(set(values)))}
    return np.array([number[value] for value in values], dtype=int)


@dataclass(frozen=True)
class Resampled:
    """Figures, and what they would have been with other prompts, other raters, or other answers of the same ones.

    An estimate's variance is that over prompts, plus that over raters, less that over single answers, which both
    contain (Cameron, Gelbach & Miller 2011), and at least each of these; where there is only one prompt, or rater, the
    interval holds for that one alone.
    """

    value: Array  # (K,) figures
    draws: list[Array]  # (R, K) of each of them, over prompts and over raters
    draws_of_answers: Array  # (R, K)
    degrees_of_freedom: int

    def variance(self, of: Any = lambda figures: figures) -> Array:
        """Return the variance of the figures, or of what `of` computes from them."""
        single = np.nanvar(of(self.draws_of_answers), axis=0)
        several = [np.nanvar(of(each), axis=0) for each in self.draws]
        both = sum(several) - (len(several) - 1) * single
        return np.max([both, single, *several], axis=0) if several else single

    def quantile(self, error: float) -> float:
        """Return Student's t that is exceeded, either way, with probability `error`."""
        from scipy.stats import t

        return float(t.isf(error / 2, self.degrees_of_freedom))


def resampled(prompt: Any, rater: Any, figures: Callable[[Array], Array], resamples: int, seed: int) -> Resampled:
    """Compute figures (K,) of weighted answers, (N,), as they are and with units drawn with replacement."""
    rng, n = np.random.default_rng(seed), len(prompt)

    def drawn(of: Any, units: int) -> Array:
        weights = rng.multinomial(units, np.full(units, 1 / units), size=resamples)[:, of]
        return np.array([figures(each.astype(float)) for each in weights])

    kinds = [(of, int(of.max()) + 1) for of in (prompt, rater)]
    several = [(of, units) for of, units in kinds if units > 1]
    free = max(1, min([units for _, units in several], default=n) - 1)
    return Resampled(figures(np.ones(n)), [drawn(*each) for each in several], drawn(np.arange(n), n), free)


def _logit(p: Array) -> Array:
    return np.log(p) - np.log1p(-p)


def win_rates(wins: Array, ties: Array) -> tuple[Array, Array]:
    """Fit Bradley-Terry with ties, and return (P(i is preferred to j) + P(tie) / 2, log strengths), (S, S) and (S,)."""
    import evalica

    n = len(wins)
    x, y = (each.ravel() for each in np.indices((n, n)))
    upper = x < y
    winners = [evalica.Winner.X] * n**2 + [evalica.Winner.Draw] * int(upper.sum())
    weights = np.concatenate([wins.ravel(), (ties + PRIOR)[x[upper], y[upper]]])
    xs, ys = np.concatenate([x, x[upper]]), np.concatenate([y, y[upper]])
    some = weights > 0
    fitted = evalica.newman(
        xs[some].tolist(),
        ys[some].tolist(),
        [winner for winner, there in zip(winners, some, strict=True) if there],
        weights=weights[some].tolist(),
        tolerance=1e-6,
        limit=1000,
    )
    strength = fitted.scores.reindex(range(n)).to_numpy(float)
    a, b = strength[:, None], strength[None, :]
    tie = 2 * fitted.v * np.sqrt(a * b)
    return (a + tie / 2) / (a + b + tie), np.log(strength) - np.log(strength).mean()


def standings(pairs: Pairs, resamples: int, seed: int) -> list[Standing]:
    """Return the sources, the most preferred first; those whose order is not sure share their places."""
    n = len(pairs.sources)
    found = resampled(
        pairs.prompt, pairs.rater, lambda weights: _means(win_rates(*pairs.tables(weights))[0]), resamples, seed
    )
    strengths = win_rates(*pairs.tables(np.ones(len(pairs.won))))[1]
    half = found.quantile(1 - LEVEL) * np.sqrt(found.variance(_logit))
    low, high = (1 / (1 + np.exp(-(_logit(found.value) + sign * half))) for sign in (-1, 1))
    needed = found.quantile((1 - LEVEL) / (n * (n - 1) / 2))  # the error is shared among all pairs (Bonferroni)
    differences = found.value[:, None] - found.value
    error = np.sqrt(found.variance(lambda figures: figures[:, :, None] - figures[:, None, :]))
    better = differences > needed * error
    standing = [
        Standing(
            name,
            Interval(float(found.value[i]), float(low[i]), float(high[i])),
            float(strengths[i]),
            1 + int(better[:, i].sum()),
            n - int(better[i].sum()),
            int(((pairs.left == i) | (pairs.right == i)).sum()),
        )
        for i, name in enumerate(pairs.sources)
    ]
    return sorted(standing, key=lambda each: -each.win_rate.value)


def _means(rates: Array) -> Array:
    """Return the mean win rate of each source against the others."""
    n = len(rates)
    return (rates.sum(1) - rates.diagonal()) / (n - 1)


def mean_scores(answers: Sequence[Answer], resamples: int, seed: int) -> dict[str, dict[str, Interval]]:
    """Return the mean score of each criterion for each source, with its interval."""
    scored = [each for each in answers if each.right is None]
    if not scored:
        return {}
    criteria, sources = list(scored[0].said), list(dict.fromkeys(each.left for each in scored))
    prompt, rater = (_numbered([getattr(each, key) for each in scored]) for key in ("prompt", "rater"))
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


def head_to_head(pairs: Pairs) -> list[dict[str, Any]]:
    """Return, for each two sources, how often each was preferred; a tie is half a win in the rate of `a`."""
    wins, ties = pairs.tables(np.ones(len(pairs.won)))
    names, found = pairs.sources, []
    for i, j in combinations(range(len(names)), 2):
        counts = {"a_wins": int(wins[i, j]), "b_wins": int(wins[j, i]), "ties": int(ties[i, j])}
        if n := sum(counts.values()):
            rate = (counts["a_wins"] + counts["ties"] / 2) / n
            found.append({"a": names[i], "b": names[j], **counts, "win_rate": rate})
    return found
