"""Estimate how sure a difference between models is.

Over documents this is the paired bootstrap, over seeds Welch's t-test. Functions take and return numbers; SciPy is
imported when something is computed.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.errors import UserError

Array = np.ndarray[Any, np.dtype[np.float64]]
LEVEL = 0.95
AT_ONCE = 1 << 24  # numbers in memory


def require_scipy(key: str = "compare", value: str = "statistics") -> None:
    """Raise UserError, which names `key`, if SciPy is not installed, before any work is done."""
    try:
        import scipy  # noqa: F401
    except ImportError as error:
        raise UserError(key, value, f"needs {error.name}", "pip install 'gptlab[report]'") from error


@dataclass(frozen=True)
class Difference:
    """An estimate with its interval at LEVEL."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Difference":
        """Return the same difference in another unit."""
        return Difference(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class SeedTest:
    """A t-test of two sets of seeds (Welch 1947): the difference of their means, and its p-value."""

    difference: Difference
    p: float
    degrees_of_freedom: float


def paired_bootstrap(nats_a: Array, nats_b: Array, sizes: Array, resamples: int, seed: int) -> Difference:
    """Return the sum of (b - a) over the sum of sizes, (D,) each, with its interval over resampled documents.

    They are drawn with replacement (Efron & Tibshirani 1993), the same ones for a and b. Sizes are bytes, or tokens.
    Raises ValueError for fewer than two documents.

    The percentiles are widened (`student_level`): with tens of documents of very unequal lengths the plain ones, and
    BCa's, are too narrow.
    """
    from scipy.stats import bootstrap

    differences, n = nats_b - nats_a, len(sizes)
    if n < 2:
        raise ValueError(f"{n} document is not enough to draw from")
    value = float(differences.sum() / sizes.sum())
    if np.ptp(differences / sizes) < 1e-12:  # nothing varies
        return Difference(value, value, value)
    found = bootstrap(
        (differences, sizes),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, AT_ONCE // n),
        confidence_level=student_level(n),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Difference(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def ratio_intervals(sums: Array, sizes: Array, resamples: int, seed: int) -> list[tuple[float, float] | None]:
    """Return the interval of each column's sum over its size, (D, C) each, over resampled documents.

    The same documents are drawn for all columns, and percentiles are widened as in `paired_bootstrap`, by the number of
    documents in which a column has a size. It is None where that is one.
    """
    rng, documents = np.random.default_rng(seed), len(sums)
    at_once, ratios = max(1, AT_ONCE // documents), []
    for begin in range(0, resamples, at_once):
        many = min(at_once, resamples - begin)
        drawn = rng.multinomial(documents, np.full(documents, 1 / documents), many).astype(np.float64)
        with np.errstate(invalid="ignore"):  # nothing of a column may be drawn
            ratios.append((drawn @ sums) / (drawn @ sizes))
    every, found = np.concatenate(ratios), list[tuple[float, float] | None]()
    for column, known in zip(every.T, (sizes > 0).sum(0).tolist(), strict=True):
        if known < 2:
            found.append(None)
            continue
        level = student_level(known)
        low, high = np.nanquantile(column, [(1 - level) / 2, (1 + level) / 2])
        found.append((float(low), float(high)))
    return found


def mcnemar(a: Array, b: Array) -> dict[str, float]:
    """Return how many items only a, and only b, has right, (N,) of 0 and 1 each, and the exact p-value (McNemar 1947).

    The p-value is of both being right equally often.
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    p = float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def student_level(n: int) -> float:
    """Return the level of percentiles by which the interval of a normal mean of n would be Student's at LEVEL.

    (Hesterberg 2015.)
    """
    from scipy.stats import norm, t

    wider = 1 - 2 * norm.cdf(math.sqrt(n / (n - 1)) * t.ppf((1 - LEVEL) / 2, n - 1))
    return min(float(wider), 1 - 1e-9)


def _ratio(differences: Array, sizes: Array, axis: int) -> Array:
    return differences.sum(axis) / sizes.sum(axis)


def seed_test(a: Sequence[float], b: Sequence[float]) -> SeedTest | None:
    """Test mean(b) - mean(a); returns None unless each side has two seeds or more and some spread."""
    from scipy.stats import ttest_ind

    if len(a) < 2 or len(b) < 2 or (pooled_deviation([a, b]) or 0.0) == 0.0:
        return None
    found = ttest_ind(b, a, equal_var=False)
    interval = found.confidence_interval(LEVEL)
    value = statistics.mean(b) - statistics.mean(a)
    return SeedTest(Difference(value, float(interval.low), float(interval.high)), float(found.pvalue), float(found.df))


def prediction_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return the interval in which one more value lies with a probability of `level`, if all are normal.

    It is mean ± t s sqrt(1 + 1/n), with Student's t of n - 1 degrees of freedom (Hahn & Meeker 1991, sec. 4.8). Raises
    statistics.StatisticsError for fewer than two values.
    """
    from scipy.special import stdtrit  # in a fraction of the time of scipy.stats.t

    n, mean = len(values), statistics.fmean(values)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups, over those with two values or more; None if there are none."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    if not freedom:
        return None
    return math.sqrt(sum(statistics.variance(group) * (len(group) - 1) for group in several) / freedom)


def power(seeds: int, difference: float, deviation: float, alpha: float = 1 - LEVEL) -> float:
    """Return the probability that a two-sided t-test, with `seeds` on each side, detects a difference (Cohen 1988)."""
    from scipy.stats import nct, t

    freedom = 2 * seeds - 2
    shift = abs(difference) / (deviation * math.sqrt(2 / seeds))
    limit = t.ppf(1 - alpha / 2, freedom)
    return float(nct.sf(limit, freedom, shift) + nct.cdf(-limit, freedom, shift))


def seeds_needed(difference: float, deviation: float, wanted: float = 0.8, most: int = 10_000) -> int | None:
    """Return the fewest seeds on each side that detect a difference with a power of `wanted`; None if over `most`."""
    if deviation == 0.0:
        return 2 if difference else None
    low, high = 2, most
    if not difference or power(high, difference, deviation) < wanted:
        return None
    while low < high:  # power grows with the seeds
        middle = (low + high) // 2
        if power(middle, difference, deviation) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def expected_best(number: int) -> float:
    """Return by how many deviations the best of some equal candidates is expected to exceed their mean.

    It is the mean of the largest of `number` standard normal values: how much the winner flatters itself where all are
    equally good, and the most that it does so on average where they are not.
    """
    at = np.linspace(-9, 9, 20_001)
    density = np.exp(-at * at / 2) / math.sqrt(2 * math.pi)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2) * (at[1] - at[0])])
    each = at * number * density * np.minimum(below, 1) ** (number - 1)
    return float(((each[1:] + each[:-1]) / 2).sum() * (at[1] - at[0]))


def noise_floor(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the standard deviation of seeds, and the difference of two single runs that it explains at LEVEL.

    Both are None if it is not known.
    """
    from scipy.stats import t

    deviation = pooled_deviation(groups)
    if deviation is None:
        return None
    freedom = sum(len(group) - 1 for group in groups if group)
    return deviation, float(t.ppf((1 + LEVEL) / 2, freedom) * math.sqrt(2) * deviation)
