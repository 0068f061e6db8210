"""Verdicts at any number of seeds, in simulated worlds where the truth is known."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import nct
from scipy.stats import t as student

from gptlab.evaluation.sequential import EFFECTS, confidence_sequence, judge, log_e_value, over_seeds, paired, unpaired
from gptlab.evaluation.statistics import power

WORLDS = 4000


def first_verdicts(effect: float, most: int, worlds: int = WORLDS) -> np.ndarray:
    """Return the seeds on each side at the first verdict, looked at after every seed; infinity where there is none."""
    rng = np.random.default_rng(int(effect * 10))
    a, b = rng.normal(0, 1, (worlds, most)), rng.normal(effect, 1, (worlds, most))
    n = np.arange(1, most + 1)
    means = a.cumsum(1) / n, b.cumsum(1) / n
    squares = sum((x * x).cumsum(1) - n * mean**2 for x, mean in zip((a, b), means, strict=True))
    at = slice(1, None)  # from two seeds on
    t_squared = (n / 2 * (means[1] - means[0]) ** 2)[:, at] / (squares[:, at] / (2 * n[at] - 2))
    found = log_e_value(t_squared, n[at] / 2, 2 * n[at] - 2) >= math.log(20)
    return np.where(found.any(1), found.argmax(1) + 2.0, math.inf)


def test_no_rule_of_stopping_is_fooled_in_more_than_a_twentieth() -> None:
    """The worst rule, to stop at the first verdict out of 100 looks, has a false one in at most 5% of 4,000 worlds.

    The t-test, stopped at p < 0.05 from 3 to 20 seeds, has one in over 20%.
    """
    false = np.isfinite(first_verdicts(0.0, 100)).mean()
    assert false < 0.05
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (2, WORLDS, 20))
    fooled = np.zeros(WORLDS, bool)
    for n in range(3, 21):
        pooled = (a[:, :n].var(1, ddof=1) + b[:, :n].var(1, ddof=1)) / 2
        t = (b[:, :n].mean(1) - a[:, :n].mean(1)) / np.sqrt(2 * pooled / n)
        fooled |= np.abs(t) > student.ppf(0.975, 2 * n - 2)
    assert fooled.mean() > 0.2


@pytest.mark.parametrize("effect", [1.0, 1.5, 2.0])
def test_it_takes_at_most_half_as_many_seeds_again(effect: float) -> None:
    """Than the t-test with 80% power, whose number of seeds has to be fixed beforehand."""
    fixed = next(n for n in range(2, 100) if power(n, effect, 1.0) >= 0.8)
    assert np.median(first_verdicts(effect, 60)) <= 1.5 * fixed


def test_the_e_value_is_the_ratio_of_likelihoods() -> None:
    """For each effect it is that of noncentral t and t, integrated over a normal prior."""
    for size, freedom, t in ((1.0, 2, 3.0), (2.5, 8, 1.7), (6.0, 22, 4.0)):
        ratios = []
        for variance in EFFECTS:

            def prior_times_likelihood(delta: float, size=size, freedom=freedom, t=t, variance=variance) -> float:  # type: ignore[no-untyped-def]
                prior = math.exp(-(delta**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
                return prior * float(nct.pdf(t, freedom, delta * math.sqrt(size)))

            edge = 8 * math.sqrt(variance)
            ratios.append(
                quad(prior_times_likelihood, -edge, edge, points=[0, t], limit=400)[0] / student.pdf(t, freedom)
            )
        assert math.exp(log_e_value(t * t, size, freedom)) == pytest.approx(np.mean(ratios), rel=1e-4)


def test_the_interval_is_what_the_e_value_does_not_reject() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 6), rng.normal(1, 1, 9)
    found = unpaired(a, b)
    assert found is not None
    assert (found.size, found.freedom) == (54 / 15, 13)
    assert found.deviation**2 == pytest.approx((a.var(ddof=1) * 5 + b.var(ddof=1) * 8) / 13)
    for edge in confidence_sequence(found):
        moved = unpaired(a, b - edge)
        assert moved is not None
        t_squared = moved.size * (moved.difference / moved.deviation) ** 2
        assert float(log_e_value(t_squared, moved.size, moved.freedom)) == pytest.approx(math.log(20), abs=1e-6)


def test_verdicts_and_how_many_more() -> None:
    a = [1.0, 1.1, 0.9, 1.05]
    clear = unpaired(a, [x + 2 for x in a])
    assert clear is not None
    assert judge(clear, 1, None).verdict == "a" and judge(clear, -1, None).verdict == "b"  # where higher is better
    assert judge(clear, 1, None).more_seeds == 0
    close = unpaired(a, [x + 0.06 for x in a])
    assert close is not None
    first = judge(close, 1, None)
    assert first.verdict == "go_on" and first.more_seeds is not None
    # with so many more seeds of the same mean and deviation there is a verdict, and with one less there is none
    for more, verdict in ((first.more_seeds, "a"), (first.more_seeds - 1, "go_on")):
        n = 4 + more
        spread = close.deviation * math.sqrt((n - 1) / n)
        values = np.array([1, -1] * (n // 2) + [0] * (n % 2)) * spread * math.sqrt(n / (2 * (n // 2)))
        again = unpaired(list(1 + values), list(1.06 + values))
        assert again is not None and again.deviation == pytest.approx(close.deviation)
        assert judge(again, 1, None).verdict == verdict
    assert judge(close, 1, margin=5.0).verdict == "same"
    equal = unpaired(a, [1.1, 1.0, 1.05, 0.9])
    assert equal is not None and judge(equal, 1, None).more_seeds is None
    assert judge(equal, 1, margin=0.1).more_seeds == pytest.approx(12, abs=8)
    few = unpaired(a[:2], [x + 0.1 for x in a[:2]])
    assert few is not None and judge(few, 1, None).low is not None
    assert unpaired(a[:1], a) is None and unpaired([1, 1], [2, 2]) is None


def test_pairs_help_where_seeds_go_together() -> None:
    rng = np.random.default_rng(5)
    of_seed = rng.normal(0, 1, 6)
    a = {i: float(x) for i, x in enumerate(of_seed)}
    b = {i: float(x + 0.1 + 0.02 * rng.normal()) for i, x in enumerate(of_seed)}
    alone, together = (over_seeds({"a": a, "b": b}, 1, None, is_paired) for is_paired in (False, True))
    assert alone is not None and together is not None
    assert (alone["verdict"], together["verdict"]) == ("go_on", "a")
    assert alone["correlation"] == pytest.approx(np.corrcoef(list(a.values()), list(b.values()))[0, 1])
    assert over_seeds({"a": {1: 2.0}, "b": {1: 3.0}}, 1, None, False) is None
    assert paired([1.0, 2.0], [1.5, 2.5]) is None  # a deviation of zero


def test_false_verdicts_of_pairs() -> None:
    """The worst rule over pairs of seeds, in 4,000 worlds of no difference."""
    rng, most = np.random.default_rng(7), 80
    d = rng.normal(0, 1, (WORLDS, most))
    n = np.arange(1, most + 1)
    mean = d.cumsum(1) / n
    variance = ((d * d).cumsum(1) - n * mean**2)[:, 1:] / (n[1:] - 1)
    found = log_e_value(n[1:] * mean[:, 1:] ** 2 / variance, n[1:], n[1:] - 1) >= math.log(20)
    assert found.any(1).mean() < 0.05


@pytest.mark.parametrize("value", [1.1, 0.1, 2.3456, 3.3])
@pytest.mark.parametrize("seeds", [3, 6, 7])
def test_what_only_rounding_makes_deviate_has_no_deviation(value: float, seeds: int) -> None:
    """A mean of equal numbers is not always that number: 6 times 1.1 over 6 is another one."""
    assert unpaired([value] * seeds, [value + 0.1] * seeds) is None
    assert paired([value] * seeds, [value + 0.1] * seeds) is None
    assert paired([1.1, 2.3, 3.7], [1.2, 2.4, 3.8]) is None  # each 0.1 more
    found = unpaired([value - 1e-6, value + 1e-6], [value - 1e-6, value + 1e-6])
    assert found is not None and found.deviation == pytest.approx(math.sqrt(2) * 1e-6)
