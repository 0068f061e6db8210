"""Compute how sure figures are that come from many raters and many prompts.

Answers about one prompt, or by one person, are alike, so that their number says less than it seems to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
LEVEL = 0.95


def numbered(values: Sequence[Any]) -> Any:
    """Return the place of each value among the different ones, (N,)."""
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
