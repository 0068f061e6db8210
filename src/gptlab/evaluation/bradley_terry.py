"""Rank sources of texts by what raters prefer: Bradley-Terry with ties (Davidson 1970), fitted by evalica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from gptlab.evaluation.crossed import LEVEL, Array, numbered, resampled
from gptlab.evaluation.ratings import Answer, Interval

PRIOR = 0.5  # ties that are added to each pair of sources, so that one that never lost has a finite strength


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
        prompt, rater = (numbered([getattr(each, key) for each in asked]) for key in ("prompt", "rater"))
        return cls(list(sources), left, right, np.array(won), prompt, rater)

    def tables(self, weights: Array) -> tuple[Array, Array]:
        """Return wins[i, j], how often i was preferred to j, and ties[i, j], each comparison with its weight."""
        n = len(self.sources)
        wins, ties = np.zeros((n, n)), np.zeros((n, n))
        for table, which in ((wins, self.won == 1), (wins.T, self.won == 0), (ties, self.won == 0.5)):
            np.add.at(table, (self.left[which], self.right[which]), weights[which])
        return wins, ties + ties.T


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


def _logit(p: Array) -> Array:
    return np.log(p) - np.log1p(-p)


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
