"""The sequential test of a trial, beside SciPy's densities; a ledger of a hundred trials, simulated."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import nct, t

from gptlab.evaluation.gating import KEPT, REJECTED, UNDECIDED, Rule, decide, level_of, log_ratio

EFFECT, MISS, MOST = 2.0, 0.1, 20  # the defaults of `gate`


def test_the_ratio_is_that_of_two_densities_of_students_t() -> None:
    for pairs in (2, 3, 7, 20):
        size, freedom = pairs / 2, 2 * pairs - 2
        at = np.array([-3.0, -0.5, 0.0, 1.0, 4.0])
        for effect in (0.5, 2.0):
            right = nct.pdf(at, freedom, effect * math.sqrt(size)) / t.pdf(at, freedom)
            assert np.exp(log_ratio(at, size, freedom, effect)) == pytest.approx(right, rel=1e-6)


def test_levels_by_hand() -> None:
    alpha, planned = 0.05, 100
    assert level_of(1, 0, alpha, planned) == level_of(100, 0, alpha, planned) == pytest.approx(0.05 * 0.9 / 100)
    assert level_of(7, 2, alpha, planned) == pytest.approx(3 * 0.05 * 0.9 / 100)
    assert level_of(101, 0, alpha, planned) == pytest.approx(0.05 * 0.1 / 2)
    assert level_of(103, 0, alpha, planned) == pytest.approx(0.05 * 0.1 / 12)
    assert level_of(101, 100, 0.5, planned) == 1.0  # 2.525 by the rule, which no level can be
    late = sum(Fraction(1, k * (k + 1)) for k in range(1, 2000))
    assert sum(level_of(n, 0, alpha, planned) for n in range(1, 2100)) == pytest.approx(
        0.05 * (0.9 + 0.1 * float(late))
    )


def test_decisions() -> None:
    rule = Rule(EFFECT, 0.01, MISS, 6)
    assert decide([2.0], [1.0], 1, rule).verdict is None  # no deviation is known
    assert decide([2.0, 2.0], [2.0, 2.0], 1, rule).verdict is None
    assert decide([2.0] * 6, [1.0] * 6, 1, rule).verdict == UNDECIDED
    assert decide([2.0], [math.inf], 1, rule).verdict == REJECTED
    base, better = [2.01, 1.99, 2.0, 2.02, 1.98], [1.91, 1.89, 1.9, 1.92, 1.88]
    found = decide(base, better, 1, rule)
    assert found.verdict == KEPT and found.difference == pytest.approx(-0.1)
    assert found.low is not None and found.high is not None and found.low < -0.1 < found.high < 0
    assert decide(base, better, -1, rule).verdict == REJECTED  # where more is better
    assert decide([*base, 5.0], better, 1, rule) == found, "a run whose pair is not there yet does not count"
    # by hand: x = t / sqrt(t^2 + nu), and the integral by a fine sum
    deviation = math.sqrt(np.var(base, ddof=1))
    student = 0.1 / deviation / math.sqrt(2 / 5)
    u = np.linspace(1e-9, 40, 400_001)
    slope = EFFECT * math.sqrt(2.5) * student / math.sqrt(student**2 + 8)
    over = np.trapezoid(u**8 * np.exp(-(u**2) / 2 + slope * u), u) / np.trapezoid(u**8 * np.exp(-(u**2) / 2), u)
    assert found.ratio == pytest.approx(over * math.exp(-(EFFECT**2) * 2.5 / 2), rel=1e-6)


class Bounds:
    """Where the test keeps and rejects: values of Student's t for each number of pairs."""

    def __init__(self) -> None:
        self.kept_above: dict[float, list[float]] = {}
        self.rejected_below = [self._crossing(n, math.log(MISS)) for n in range(2, MOST + 1)]

    def keeps(self, level: float) -> list[float]:
        if level not in self.kept_above:
            self.kept_above[level] = [self._crossing(n, -math.log(level)) for n in range(2, MOST + 1)]
        return self.kept_above[level]

    @staticmethod
    def _crossing(pairs: int, at: float) -> float:
        def gap(x: float) -> float:
            return float(log_ratio(x, pairs / 2, 2 * pairs - 2, EFFECT)) - at

        ends = (-1e4, 1e4)
        return math.inf if gap(ends[1]) < 0 else -math.inf if gap(ends[0]) > 0 else float(brentq(gap, *ends))


def trials(rng: np.random.Generator, worlds: int, effect: float, kept_above: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Return which of many trials of one effect are kept: (W,) of bool; `kept_above` is (W, MOST - 1)."""
    base, changed = rng.normal(size=(2, worlds, MOST))
    changed = changed - effect
    kept, going = np.zeros(worlds, bool), np.ones(worlds, bool)
    for pairs in range(2, MOST + 1):
        a, b = base[:, :pairs], changed[:, :pairs]
        deviation = np.sqrt((a.var(1, ddof=1) + b.var(1, ddof=1)) / 2)
        student = (a.mean(1) - b.mean(1)) / deviation / math.sqrt(2 / pairs)
        kept |= going & (student >= kept_above[:, pairs - 2])
        going &= ~kept & (student > bounds.rejected_below[pairs - 2])
    return kept


def ledgers(worlds: int, effects: list[float], seed: int) -> np.ndarray:
    """Simulate ledgers of the same ideas; return which of them were kept: (W, ideas) of bool."""
    rng, bounds = np.random.default_rng(seed), Bounds()
    kept = np.zeros((worlds, len(effects)), bool)
    for number, effect in enumerate(effects, 1):
        before = kept.sum(1)
        levels = {int(n): bounds.keeps(level_of(number, int(n), 0.05, 100)) for n in np.unique(before)}
        above = np.array([levels[int(n)] for n in before])
        kept[:, number - 1] = trials(rng, worlds, effect, above, bounds)
    return kept


def test_a_hundred_ideas_that_improve_nothing(request: pytest.FixtureRequest) -> None:
    worlds = 4000 if request.config.getoption("faults") >= 200 else 500
    share = ledgers(worlds, [0.0] * 100, 1).any(1).mean()
    assert share <= 0.05, share
    worse = ledgers(worlds // 10, [-1.0] * 100, 2).any(1).mean()
    assert worse == 0


def test_useful_ideas_among_useless_ones(request: pytest.FixtureRequest) -> None:
    worlds = 4000 if request.config.getoption("faults") >= 200 else 300
    effects = [2.0 if n % 10 == 4 else 0.0 for n in range(100)]
    useful = np.array(effects) > 0
    kept = ledgers(worlds, effects, 3)
    found, false = kept[:, useful].mean(), (kept[:, ~useful].sum(1) / np.maximum(1, kept.sum(1))).mean()
    assert found >= 0.8 and false <= 0.05, (found, false)


@pytest.mark.parametrize(("effect", "level", "least", "most"), [(0.0, 0.05, 0.0, 0.05), (2.0, 0.05, 0.9, 1.0)])
def test_one_trial(effect: float, level: float, least: float, most: float) -> None:
    bounds, worlds = Bounds(), 4000
    above = np.tile(bounds.keeps(level), (worlds, 1))
    assert least <= trials(np.random.default_rng(4), worlds, effect, above, bounds).mean() <= most
