"""Fit the loss as a function of parameters and tokens, L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, eq. 10).

For given exponents the other three enter linearly: they are found by least squares without negative values, and only
the two exponents are searched (variable projection; Golub & Pereyra 1973). Residuals are of the logarithm of the loss,
under Huber's loss, as in the paper; its data, re-analysed by Besiroglu et al. 2024, are one of the checks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from scipy.stats import f as f_distribution

Array = NDArray[np.float64]

DELTA = 1e-3  # of Huber's loss: beyond it a residual counts linearly (Hoffmann et al. 2022, appendix D.2)
COEFFICIENTS = ("E", "A", "B", "a", "b")
GRID = np.linspace(0.05, 1.25, 13)  # exponents where the search begins
BOUNDS = (0.01, 3.0)
STARTS = 3  # points of the grid from which the search goes on
ROUNDS = 30  # of reweighting, at most


@dataclass(frozen=True)
class Point:
    """The loss, in nats per token, of a model with so many parameters after so many tokens."""

    parameters: float
    tokens: float
    loss: float
    cluster: str = ""  # points that share a training run, such as the decays off one trunk; "": it is alone


class Law(NamedTuple):
    """The five coefficients of L(N, D) = E + A / N^a + B / D^b."""

    E: float
    A: float
    B: float
    a: float
    b: float

    def loss(self, parameters: Array | float, tokens: Array | float) -> Array:
        """Return the loss, in nats per token."""
        return np.asarray(self.E + self.A * np.power(parameters, -self.a) + self.B * np.power(tokens, -self.b))

    def best_size(self, flops: float, per_token: float = 6) -> tuple[float, float]:
        """Return the parameters and tokens of the least loss at a number of FLOPs, `per_token` N D (eq. 4).

        Raises OverflowError where one of them is too large for a number.
        """
        product = math.log(flops / per_token)
        size = (math.log(self.a * self.A) - math.log(self.b * self.B) + self.b * product) / (self.a + self.b)
        return math.exp(size), math.exp(product - size)


class _Data:
    """Points in units in which parameters and tokens are about 1."""

    def __init__(self, points: Sequence[Point]) -> None:
        n, d, self.loss = columns_of(points)
        self.units = float(np.exp(np.log(n).mean())), float(np.exp(np.log(d).mean()))
        self.logs = np.log(n / self.units[0]), np.log(d / self.units[1])
        self.log_loss = np.log(self.loss)

    def columns(self, a: float, b: float) -> Array:
        """Return what E, A and B are multiplied by, (n, 3)."""
        return np.stack([np.ones(len(self.loss)), np.exp(-a * self.logs[0]), np.exp(-b * self.logs[1])], 1)

    def linear(self, a: float, b: float) -> tuple[Array, float]:
        """Return E, A and B for two exponents, in these units, and the objective.

        Least squares without negative values, of the residuals of log L linearised where they are, and weighted so that
        it ends at Huber's loss.
        """
        x, y = self.columns(a, b), self.loss
        found, _ = nnls(x / y[:, None], np.ones(len(y)))
        predicted, residual, value = self.objective(x @ found)
        for _ in range(ROUNDS):
            root = np.sqrt(np.minimum(1, DELTA / np.maximum(np.abs(residual), 1e-300)))
            step, _ = nnls(x / predicted[:, None] * root[:, None], (1 - residual) * root)
            for _ in range(8):  # a shorter step where the linearised problem is too far off
                after = self.objective(x @ step)
                if after[2] <= value:
                    break
                step = (step + found) / 2
            if not after[2] < value * (1 - 1e-10):
                break
            found, (predicted, residual, value) = step, after
        return found, value

    def objective(self, predicted: Array) -> tuple[Array, Array, float]:
        """Return what is predicted, above 0, the logarithms' residuals, and the sum of Huber's loss of these."""
        predicted = np.maximum(predicted, 1e-12)
        residual = np.log(predicted) - self.log_loss
        size = np.abs(residual)
        near = np.minimum(size, DELTA)
        return predicted, residual, float(near @ (size - near / 2))

    def slopes(self, a: float, b: float, found: Array) -> Array:
        """Return the derivatives of the objective by log a and log b, E, A and B being the best for them.

        At their best the objective does not change with E, A and B (the envelope theorem).
        """
        x = self.columns(a, b)
        predicted = np.maximum(x @ found, 1e-12)
        pull = np.clip(np.log(predicted / self.loss), -DELTA, DELTA) / predicted
        return np.array(
            [-a * (pull * found[1] * x[:, 1]) @ self.logs[0], -b * (pull * found[2] * x[:, 2]) @ self.logs[1]]
        )

    def search(self, starts: Sequence[tuple[float, float]], fixed: dict[str, float] | None = None) -> tuple[Law, float]:
        """Return the best law found from some exponents, and its objective; `fixed` ones stay."""
        fixed = fixed or {}
        free = [i for i, name in enumerate(("a", "b")) if name not in fixed]
        unit = DELTA**2 * len(self.loss)
        best: tuple[float, Array] | None = None

        def objective(logs: Array, begin: Array) -> tuple[float, Array]:
            exponents = begin.copy()
            exponents[free] = np.exp(logs)
            a, b = exponents
            found, value = self.linear(a, b)
            return value / unit, self.slopes(a, b, found)[free] / unit

        for start in starts:
            begin = np.array([fixed.get(name, start[i]) for i, name in enumerate(("a", "b"))])
            end = minimize(
                objective, np.log(begin[free]), (begin,), "L-BFGS-B", jac=True, bounds=[np.log(BOUNDS)] * len(free),
                options={"ftol": 1e-13, "gtol": 1e-9},
            )  # fmt: skip
            begin[free] = np.exp(end.x)
            if best is None or end.fun < best[0]:
                best = end.fun, begin
        assert best is not None
        a, b = best[1]
        (e, big_a, big_b), value = self.linear(a, b)
        big_a, big_b = big_a * self.units[0] ** a, big_b * self.units[1] ** b
        return Law(float(e), float(big_a), float(big_b), float(a), float(b)), value


def fit(points: Sequence[Point]) -> Law:
    """Return the law that fits the points best; they must be as many as `missing` asks for."""
    data = _Data(points)
    grid = [(data.linear(a, b)[1], (float(a), float(b))) for a in GRID for b in GRID]
    return data.search([at for _, at in sorted(grid)[:STARTS]])[0]


def columns_of(points: Sequence[Point]) -> tuple[Array, Array, Array]:
    """Return the parameters, tokens and losses of points, (n,) each."""
    n, d, loss = (np.array([getattr(p, key) for p in points], np.float64) for key in ("parameters", "tokens", "loss"))
    return n, d, loss


def residuals(points: Sequence[Point], law: Law) -> Array:
    """Return by how much the logarithm of each point's loss is above the law's, (n,)."""
    n, d, loss = columns_of(points)
    return np.asarray(np.log(loss) - np.log(law.loss(n, d)))


def missing(points: Sequence[Point]) -> str | None:
    """Say what is missing for a fit of five coefficients; None where nothing is.

    It takes three sizes and three numbers of tokens for each of the two powers to have a curve, and more points than
    coefficients.
    """
    asked = {
        "sizes of models": 3 - len({each.parameters for each in points}),
        "numbers of tokens": 3 - len({each.tokens for each in points}),
        "runs": len(COEFFICIENTS) + 1 - len(points),
    }
    lacking = [f"{number} more {name}" for name, number in asked.items() if number > 0]
    return " and ".join(lacking) or None


def bootstrap(points: Sequence[Point], law: Law, resamples: int, seed: int) -> list[Law]:
    """Return the laws of resampled points; those of one training run are drawn together.

    Draws that cannot be fitted, since they have too few sizes or numbers of tokens, are drawn again.
    """
    rng, groups = np.random.default_rng(seed), _groups(points)
    found = list[Law]()
    while len(found) < resamples:
        drawn = [points[i] for group in rng.integers(len(groups), size=len(groups)) for i in groups[group]]
        if len({each.parameters for each in drawn}) < 3 or len({each.tokens for each in drawn}) < 3:
            continue
        found.append(_Data(drawn).search([(law.a, law.b)])[0])
    return found


def _groups(points: Sequence[Point]) -> list[list[int]]:
    found: dict[object, list[int]] = {}
    for i, each in enumerate(points):
        found.setdefault(each.cluster or i, []).append(i)
    return list(found.values())


def intervals(laws: Sequence[Law], level: float) -> dict[str, tuple[float, float]]:
    """Return the interval of each coefficient that holds the middle `level` of the resampled ones."""
    low, high = middle(np.array(laws), level)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(COEFFICIENTS)}


def middle(values: Array, level: float) -> Array:
    """Return the ends between which the middle `level` of values lies, (2, ...), over their first dimension."""
    tail = 100 * (1 - level) / 2
    return np.asarray(np.percentile(values, [tail, 100 - tail], axis=0))


def profile(points: Sequence[Point], law: Law, level: float) -> dict[str, tuple[float, float]]:
    """Return the interval of both exponents by their profile: those that the points fit nearly as well.

    An exponent is in it where the objective, least over all other coefficients, is at most (1 + F / (n - 5)) times the
    least, F being the quantile of the F distribution with 1 and n - 5 degrees of freedom (Bates & Watts 1988, ch. 6).
    """
    data, rest = _Data(points), len(points) - len(COEFFICIENTS)
    least = data.linear(law.a, law.b)[1]
    most = least * (1 + float(f_distribution.ppf(level, 1, rest)) / rest)
    return {name: (_edge(data, law, name, -1, most), _edge(data, law, name, 1, most)) for name in ("a", "b")}


def _edge(data: _Data, law: Law, name: str, direction: int, most: float) -> float:
    """Return where an exponent's profile leaves `most`, by doubling and halving; a bound where it does not."""

    def within(value: float) -> bool:
        return data.search([(law.a, law.b)], {name: value})[1] <= most

    inside, step = getattr(law, name), 0.02
    while within(outside := float(np.clip(inside * (1 + direction * step), *BOUNDS))):
        if outside in BOUNDS:
            return outside
        inside, step = outside, 2 * step
    for _ in range(10):
        between = (inside + outside) / 2
        inside, outside = (between, outside) if within(between) else (inside, between)
    return float(inside)
