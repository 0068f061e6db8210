"""Against SciPy, NumPy, published tables and simulated worlds in which the truth is known."""

import math
import sys

import numpy as np
import pytest
from scipy import stats

from gptlab.evaluation.statistics import (
    Difference,
    expected_best,
    noise_floor,
    paired_bootstrap,
    pooled_deviation,
    power,
    seed_test,
    seeds_needed,
)

RATE = 0.01  # nats per byte by which b is worse in the simulated worlds


def documents(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nats under a and b, and bytes, of documents as they are: skewed lengths, long ones easier, both models alike."""
    sizes = np.round(rng.lognormal(6, 1, n)) + 20
    hard = rng.gamma(20, 1 / 20, n) * sizes**-0.05
    a = sizes * hard * 0.7
    return a, a + sizes * (RATE + rng.standard_t(5, n) * 0.02) + rng.normal(0, 1, n) * np.sqrt(sizes) * 0.05, sizes


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 80, 500])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    rng, worlds, covered = np.random.default_rng(n), 400, 0
    for world in range(worlds):
        found = paired_bootstrap(*documents(n, rng), 1000, world)
        covered += found.low <= RATE <= found.high
    print(f"{n} documents: covered {covered / worlds:.1%}")
    assert 0.90 <= covered / worlds <= 0.99


def test_it_would_miss_a_wrong_truth() -> None:
    """The same worlds, and a difference that is not theirs: the interval is no mere wide one."""
    rng = np.random.default_rng(0)
    found = [paired_bootstrap(*documents(80, rng), 400, world) for world in range(50)]
    assert sum(f.low <= 3 * RATE <= f.high for f in found) < 5


def test_documents_of_one_length_are_scipy_s_mean() -> None:
    rng = np.random.default_rng(1)
    a, sizes = rng.normal(500, 50, 300), np.full(300, 100.0)
    b = a + rng.normal(2, 8, 300)
    found = paired_bootstrap(a, b, sizes, 10_000, 7)
    expected = stats.bootstrap(
        ((b - a) / 100,), np.mean, n_resamples=10_000, method="percentile", rng=3
    ).confidence_interval
    width = expected.high - expected.low
    assert found.value == pytest.approx((b - a).mean() / 100)
    assert found.low == pytest.approx(expected.low, abs=0.04 * width)
    assert found.high == pytest.approx(expected.high, abs=0.04 * width)
    t = stats.ttest_rel(b, a).confidence_interval()
    assert found.low == pytest.approx(t.low / 100, abs=0.04 * width)
    assert found.high == pytest.approx(t.high / 100, abs=0.04 * width)


def test_many_documents_are_a_loop_in_numpy() -> None:
    rng = np.random.default_rng(2)
    a, b, sizes = documents(2100, rng)
    found = paired_bootstrap(a, b, sizes, 4000, 5)
    drawn = []
    for _ in range(4000):
        rows = rng.integers(0, 2100, 2100)
        drawn.append((b[rows].sum() - a[rows].sum()) / sizes[rows].sum())
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.06 * (high - low))
    assert found.high == pytest.approx(high, abs=0.06 * (high - low))


def test_few_documents_get_student_s_interval() -> None:
    """Eight normal differences: plain percentiles would be a quarter narrower than Student's interval."""
    rng = np.random.default_rng(4)
    b = rng.normal(1, 1, 8)
    found = paired_bootstrap(np.zeros(8), b, np.ones(8), 20_000, 0)
    t = stats.ttest_1samp(b, 0).confidence_interval()
    assert found.high - found.low == pytest.approx(t.high - t.low, rel=0.08)
    plain = stats.bootstrap((b,), np.mean, method="percentile", rng=0).confidence_interval
    assert plain.high - plain.low < 0.8 * (t.high - t.low)


def test_pairing_takes_out_what_documents_have_in_common() -> None:
    rng = np.random.default_rng(3)
    sizes = np.full(50, 1000.0)
    a = rng.normal(2000, 300, 50)
    b = a - 10 + rng.normal(0, 5, 50)
    paired = paired_bootstrap(a, b, sizes, 2000, 0)
    assert paired.high < 0
    shuffled = paired_bootstrap(a, rng.permutation(b), sizes, 2000, 0)
    assert shuffled.low < 0 < shuffled.high


def test_edges_of_the_bootstrap() -> None:
    ones = np.ones(4)
    assert paired_bootstrap(ones, ones, ones, 100, 0) == Difference(0.0, 0.0, 0.0)
    assert paired_bootstrap(ones, ones + 0.5, ones, 100, 0) == Difference(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="1 document is not enough"):
        paired_bootstrap(ones[:1], ones[:1], ones[:1], 100, 0)
    two = paired_bootstrap(np.zeros(2), np.array([0.0, 1.0]), np.ones(2), 500, 0)
    assert (two.low, two.value, two.high) == (0.0, 0.5, 1.0)
    a, b, sizes = documents(40, np.random.default_rng(0))
    assert paired_bootstrap(a, b, sizes, 500, 1) == paired_bootstrap(a, b, sizes, 500, 1)
    assert Difference(1.0, 0.5, 2.0).scaled(2) == Difference(2.0, 1.0, 4.0)


def test_welch_by_hand() -> None:
    """Welch (1947): the formulas in NumPy, and what scipy.stats makes of the same numbers."""
    a, b = [3.1, 3.3, 3.0, 3.2], [2.8, 3.05, 2.9]
    found = seed_test(a, b)
    assert found is not None
    va, vb = np.var(a, ddof=1) / 4, np.var(b, ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 2)
    gap = np.mean(b) - np.mean(a)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(va + vb)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    assert found.difference.value == pytest.approx(gap)
    assert (found.difference.low, found.difference.high) == pytest.approx((gap - half, gap + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(gap) / math.sqrt(va + vb), freedom))


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0, 3.0]), ([1.0, 2.0], [3.0]), ([1.0, 1.0], [2.0, 2.0])])
def test_no_test_without_seeds_that_differ(a: list[float], b: list[float]) -> None:
    assert seed_test(a, b) is None


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)])
def test_seeds_needed_as_published(effect: float, seeds: int) -> None:
    """Cohen (1988), table 2.4.1: two-sided at 0.05, power 0.80, in each group."""
    assert seeds_needed(effect, 1.0) == seeds_needed(-3 * effect, 3.0) == seeds
    assert power(seeds, effect, 1.0) >= 0.8 > power(seeds - 1, effect, 1.0)


def test_power_by_simulation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 2, (20_000, 5)), rng.normal(3, 2, (20_000, 5))
    seen = (stats.ttest_ind(a, b, axis=1).pvalue < 0.05).mean()
    assert power(5, 3, 2) == pytest.approx(seen, abs=0.01)


def test_seeds_needed_at_its_edges() -> None:
    assert seeds_needed(1e-6, 1.0) is None and seeds_needed(0.0, 1.0) is None
    assert seeds_needed(100.0, 1.0) == 2 and seeds_needed(1.0, 0.0) == 2 and seeds_needed(0.0, 0.0) is None


def test_the_noise_of_seeds() -> None:
    groups = [[1.0, 2.0, 4.0], [10.0, 11.0], [5.0], []]
    pooled = math.sqrt((np.var(groups[0], ddof=1) * 2 + np.var(groups[1], ddof=1)) / 3)
    assert pooled_deviation(groups) == pytest.approx(pooled)
    deviation, floor = noise_floor(groups) or (0, 0)
    assert deviation == pytest.approx(pooled) and floor == pytest.approx(3.182446 * math.sqrt(2) * pooled)
    assert pooled_deviation([[1.0], []]) is None and noise_floor([[1.0]]) is None


def test_two_single_runs_stay_below_the_floor_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(2000):
        _, floor = noise_floor([rng.normal(3, 0.1, 4).tolist()]) or (0, 0)
        below += abs(np.diff(rng.normal(3, 0.1, 2))[0]) <= floor
    assert below / 2000 == pytest.approx(0.95, abs=0.02)


def test_scipy_waits_until_it_is_needed() -> None:
    import subprocess

    code = "import sys, gptlab.evaluation.statistics; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_best_of_many_is_lucky() -> None:
    """Means of the largest of 2, 3 and 20 normal values are known (Harter 1961); 20 are 1.867 above the mean."""
    assert expected_best(1) == pytest.approx(0, abs=1e-9)
    assert expected_best(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert expected_best(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)
    assert expected_best(20) == pytest.approx(1.86748, abs=1e-5)
