"""Say after any number of seeds which of two configs is better, so that looking again and again does no harm.

A t-test may be read once, at a number of seeds that was fixed beforehand: stopped as soon as p < 0.05, it finds a
difference where there is none in a fourth of the cases. The e-value here is the likelihood ratio of a mixture of
effects to none, with mean and deviation integrated out (Goenen et al. 2005 for one number of seeds; Perez-Ortiz et al.
2022, Wang & Ramdas 2024 for all of them): where there is no difference it exceeds 20 at any time in at most 5% of the
cases. Differences that it does not reject make an interval that holds the truth at all times at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gptlab.evaluation.statistics import LEVEL, Array

# variances of the effects in the mixture, in those of a single run: from effects of about one deviation to ten
EFFECTS = (1.0, 4.0, 100.0)
ROUNDING = 1e-13  # of values, up to which differences of sums and means of them may be none
MOST_SEEDS = 1000  # on each side, that are thought of


@dataclass(frozen=True)
class Samples:
    """The difference of two means: its estimate, and how sure one can be of it.

    `size` is 1 over the variance of the estimate, in variances of one value: n for n pairs, and a b / (a + b) for a and
    b seeds that are not paired.
    """

    difference: float
    deviation: float  # of single values, or of differences of pairs
    size: float
    freedom: int  # degrees of freedom of the deviation


def unpaired(a: Sequence[float], b: Sequence[float]) -> Samples | None:
    """Return mean(b) - mean(a) of seeds with one deviation; None unless it can be told."""
    freedom = len(a) + len(b) - 2
    if min(len(a), len(b)) < 2:
        return None
    squares = sum(float(((np.array(x) - np.mean(x)) ** 2).sum()) for x in (a, b))
    size = len(a) * len(b) / (len(a) + len(b))
    largest = float(np.abs([*a, *b]).max())
    return _samples(float(np.mean(b) - np.mean(a)), math.sqrt(squares / freedom), size, freedom, largest)


def paired(a: Sequence[float], b: Sequence[float]) -> Samples | None:
    """Return the mean of b - a over pairs of one seed each; None unless its deviation can be told."""
    if len(a) < 2:
        return None
    differences = np.subtract(b, a)
    largest = float(np.abs([*a, *b]).max())
    return _samples(float(differences.mean()), float(differences.std(ddof=1)), len(a), len(a) - 1, largest)


def _samples(difference: float, deviation: float, size: float, freedom: int, largest: float) -> Samples | None:
    """Return samples of values of which `largest` is the largest; None where they deviate by their rounding alone."""
    return Samples(difference, deviation, size, freedom) if deviation > ROUNDING * largest else None


def log_e_value(t_squared: ArrayLike, size: ArrayLike, freedom: ArrayLike) -> Array:
    """Return the logarithm of the e-value against no difference, for squares of Student's t."""
    t2, nu = np.asarray(t_squared, np.float64), np.asarray(freedom, np.float64)
    each = []
    for variance in EFFECTS:
        spread = 1 + np.asarray(size, np.float64) * variance
        each.append((nu + 1) / 2 * (np.log1p(t2 / nu) - np.log1p(t2 / (nu * spread))) - np.log(spread) / 2)
    return np.asarray(np.logaddexp.reduce(each) - math.log(len(EFFECTS)))


def reach(size: float, freedom: int, level: float = LEVEL) -> float:
    """Return the t beyond which a difference is rejected at any time; infinity where these are too few seeds."""
    from scipy.optimize import brentq

    limit = -math.log(1 - level)
    largest = 1e12
    if log_e_value(largest**2, size, freedom) < limit:
        return math.inf
    found = brentq(lambda log: float(log_e_value(math.exp(2 * log), size, freedom)) - limit, -20.0, math.log(largest))
    return math.exp(found)


def confidence_sequence(found: Samples, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of the difference that holds the truth at all numbers of seeds at once."""
    half = reach(found.size, found.freedom, level) * found.deviation / math.sqrt(found.size)
    return found.difference - half, found.difference + half


@dataclass(frozen=True)
class Verdict:
    """The result after these seeds, which holds whatever made one stop here."""

    verdict: str  # a | b: it is better; same: no difference above the margin; go_on
    low: float | None  # of the difference b - a; None: no bound yet
    high: float | None
    e_value: float
    more_seeds: int | None  # on each side until a verdict, if all goes on as it is; None: over MOST_SEEDS, or none
    margin: float | None
    paired: bool


def judge(found: Samples, sign: int, margin: float | None, is_paired: bool = False) -> Verdict:
    """Return the verdict on mean(b) - mean(a); `sign` is 1 where lower is better, else -1.

    A difference of at most `margin` is none in practice.
    """
    low, high = confidence_sequence(found)
    verdict = _settled(low, high, sign, margin)
    t_squared = found.size * (found.difference / found.deviation) ** 2
    e_value = math.exp(min(700.0, float(log_e_value(t_squared, found.size, found.freedom))))
    more = _more(found, margin, is_paired) if verdict == "go_on" else 0
    known = math.isfinite(low)
    return Verdict(verdict, low if known else None, high if known else None, e_value, more, margin, is_paired)


def _settled(low: float, high: float, sign: int, margin: float | None) -> str:
    """Return what the interval says: a or b is better, they are the `same`, or one has to go on."""
    if margin is not None and -margin <= low and high <= margin:
        return "same"
    if low <= 0 <= high:
        return "go_on"
    return "b" if sign * low < 0 else "a"


def _more(found: Samples, margin: float | None, is_paired: bool) -> int | None:
    """Return how many more seeds it takes on each side if the estimates stay as they are."""
    now = round(found.size if is_paired else 2 * found.size)  # about, where the sides have different numbers

    def decides(seeds: int) -> bool:
        size, freedom = (seeds, seeds - 1) if is_paired else (seeds / 2, 2 * seeds - 2)
        return _settled(*confidence_sequence(replace(found, size=size, freedom=freedom)), 1, margin) != "go_on"

    if not decides(MOST_SEEDS):
        return None
    low, high = now + 1, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle + 1, high)
    return low - now


def over_seeds(
    scores: Mapping[str, Mapping[Any, float]], sign: int, margin: float | None, is_paired: bool
) -> dict[str, Any] | None:
    """Return the verdict on two sides, their scores by seed, as plain values; None where there are too few seeds.

    `correlation` tells whether pairing would help, of at least three seeds that both have: above zero it does, unless
    there are few of them.
    """
    common = [seed for seed in scores["a"] if seed in scores["b"]]
    pairs = {side: [scores[side][seed] for seed in common] for side in ("a", "b")}
    found = paired(**pairs) if is_paired else unpaired(list(scores["a"].values()), list(scores["b"].values()))
    if found is None:
        return None
    spread = len(common) > 2 and all(np.std(values) > 0 for values in pairs.values())
    correlation = float(np.corrcoef(pairs["a"], pairs["b"])[0, 1]) if spread else None
    return {"difference": found.difference, **asdict(judge(found, sign, margin, is_paired)), "correlation": correlation}
