"""A planted law comes back; the fit is that of another optimiser; intervals hold the truth as often as they say."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from gptlab.commands.scaling import _best
from gptlab.planning.prediction import predict
from gptlab.planning.ranking import decision_accuracies
from gptlab.planning.scaling import DELTA, Law, Point, bootstrap, fit, intervals, missing, profile

CHINCHILLA = Law(1.82, 482.0, 2085.0, 0.348, 0.366)  # as re-analysed by Besiroglu et al. 2024
SMALL = Law(0.9, 60.0, 900.0, 0.3, 0.45)  # of a kind of text that is easy to predict


def ladder(law: Law, noise: float = 0.0, seed: int = 0, smallest: float = 5e7, sizes: int = 6) -> list[Point]:
    rng = np.random.default_rng(seed)
    found = []
    for size in np.geomspace(smallest, 60 * smallest, sizes):
        for share in (2, 6, 20, 60):
            loss = float(law.loss(size, size * share)) * float(np.exp(rng.normal(0, noise)))
            found.append(Point(float(size), float(size * share), loss))
    return found


@pytest.mark.parametrize(("law", "smallest"), [(CHINCHILLA, 5e7), (SMALL, 1e5)])
def test_planted_coefficients_come_back(law: Law, smallest: float) -> None:
    found = fit(ladder(law, smallest=smallest))
    assert found == pytest.approx(law, rel=1e-4)
    # where A/N^a and B/D^b meet: 300 sizes for one budget
    for flops in (1e18, 1e22):
        sizes = np.geomspace(1e4, 1e13, 200_001)
        best = sizes[np.argmin(law.loss(sizes, flops / 6 / sizes))]
        size, tokens = law.best_size(flops)
        assert size == pytest.approx(best, rel=1e-3) and 6 * size * tokens == pytest.approx(flops)


def test_a_best_size_that_is_no_number_is_none() -> None:
    """Where both exponents are at their bounds and B is nearly 0, it has thousands of digits."""
    flat = Law(1.0, 5.0, 1e-9, 0.01, 0.01)
    for law in (flat, flat._replace(A=flat.B, B=flat.A)):
        with pytest.raises(OverflowError):
            law.best_size(1e20)
        assert _best([Point(1e6, 1e8, 2.0)], law, 1e20)["parameters"] is None


def by_another_optimiser(points: list[Point], start: Law) -> float:
    """Return the least objective that Nelder and Mead find over all five, in the form of Hoffmann et al. (appendix D.2)."""
    n, d, y = (np.log([getattr(each, key) for each in points]) for key in ("parameters", "tokens", "loss"))

    def objective(v: np.ndarray) -> float:
        parts = np.stack([np.full(len(n), v[0]), v[1] - v[3] * n, v[2] - v[4] * d])
        r = np.abs(logsumexp(parts, axis=0) - y)
        return float(np.where(r < DELTA, r * r / 2, DELTA * (r - DELTA / 2)).sum())

    begin = [np.log(start.E), np.log(start.A), np.log(start.B), start.a, start.b]
    for _ in range(3):
        how = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-10, "fatol": 1e-16}
        begin = minimize(objective, begin, method="Nelder-Mead", options=how).x
    return objective(begin)


def test_it_is_the_best_fit_with_noise_and_an_outlier() -> None:
    points = ladder(CHINCHILLA, noise=0.003)
    points[3] = Point(points[3].parameters, points[3].tokens, 1.3 * points[3].loss)
    law = fit(points)
    n, d, y = (np.array([getattr(each, key) for each in points]) for key in ("parameters", "tokens", "loss"))
    r = np.abs(np.log(law.loss(n, d)) - np.log(y))
    own = float(np.where(r < DELTA, r * r / 2, DELTA * (r - DELTA / 2)).sum())
    assert own == pytest.approx(by_another_optimiser(points, CHINCHILLA), rel=1e-6)
    assert law.E == pytest.approx(CHINCHILLA.E, abs=0.05)  # the outlier does not move it


def test_nothing_is_negative() -> None:
    """Loss that does not depend on size: its term is zero, not of another sign."""
    points = [Point(p.parameters, p.tokens, 2 + 100 / p.tokens**0.4 + 1e-3 * p.parameters**0.05) for p in ladder(SMALL)]
    law = fit(points)
    assert law.A == 0 and law.E > 0 and law.B > 0


@pytest.mark.slow
def test_intervals_hold_the_truth() -> None:
    """Over 10 noisy ladders, intervals of 80% hold the planted exponent 8 times on average, and 5 or more by 99%."""
    held = {"bootstrap": 0, "profile": 0, "prediction": 0}
    for seed in range(10):
        points = ladder(SMALL, noise=0.004, seed=seed, smallest=1e5)
        law = fit(points)
        laws = bootstrap(points, law, 20, seed)
        low, high = intervals(laws, 0.8)["b"]
        held["bootstrap"] += low <= SMALL.b <= high
        low, high = profile(points, law, 0.8)["b"]
        held["profile"] += low <= SMALL.b <= high
        size, tokens = 1.5e7, 6e8  # 2.5 times the largest
        loss = float(SMALL.loss(size, tokens)) * float(np.exp(np.random.default_rng(99 + seed).normal(0, 0.004)))
        middle, low, high = predict(points, law, laws, (size, tokens), 0.8, seed)
        held["prediction"] += low <= loss <= high
        assert middle == pytest.approx(loss, abs=0.05)
    assert all(5 <= times <= 10 for times in held.values()), held


@pytest.mark.slow
def test_points_of_one_training_run_are_drawn_together() -> None:
    points = ladder(SMALL, noise=0.01, smallest=1e5)
    together = [Point(p.parameters, p.tokens, p.loss, f"{p.parameters}") for p in points]
    law = fit(points)
    for given, most in ((points, len(points)), (together, 6)):
        laws = bootstrap(given, law, 20, 0)
        assert len({round(each.E, 9) for each in laws}) > 15 and most in (24, 6)
    apart, joint = (intervals(bootstrap(given, law, 60, 0), 0.8)["E"] for given in (points, together))
    assert apart != joint


def test_what_is_missing_is_said() -> None:
    points = ladder(SMALL)
    assert missing(points) is None
    assert missing(points[:4]) == "2 more sizes of models and 2 more runs"
    assert missing([Point(p.parameters, 1e6, p.loss) for p in points]) == "2 more numbers of tokens"
    assert missing([points[0], points[5], points[10]]) == "3 more runs"


def test_how_often_a_small_size_ranks_as_the_largest() -> None:
    losses = {1e5: [3.0, 3.1, 3.2, 3.1], 1e6: [2.0, 2.1, 2.2, 2.3], 1e7: [1.0, 1.1, 1.3, 1.2]}
    points = [Point(size, 1e9, loss) for size, of in losses.items() for loss in of]
    points.append(Point(1e5, 1e8, 9.0))  # the same with fewer tokens does not count
    found = decision_accuracies(points, [*("abcd" * 3), "a"])
    # by hand: of the pairs ab ac ad bc bd cd, 1e5 has all but bd, a tie; 1e6 has all but cd
    assert found == [(1e5, 6, pytest.approx(5.5 / 6)), (1e6, 6, pytest.approx(5 / 6))]
    assert decision_accuracies(points[:1], "a") == []
