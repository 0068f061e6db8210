"""Measure how much each parameter of a search matters for what came of its trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST = 8  # trials of which anything is said
FEW = 4  # values of a number that are taken as categories


def importance(parameters: Mapping[str, Sequence[Any]], outcomes: Sequence[Any]) -> dict[str, float]:
    """Return the share of the variance of the outcomes' ranks that each parameter explains alone, the largest first.

    `outcomes` are anything that can be ordered, best first. The ranks are fitted by least squares to a parabola in the
    ranks of a number, or to a mean for each category; the share is adjusted for the number of coefficients (Ezekiel
    1930), so that a parameter without effect has about 0, and is cut off at 0. Effects of several parameters together
    are not seen. Parameters with too many categories for the number of trials are left out, and there is nothing to say
    of fewer than 8 trials.
    """
    y = _ranks(outcomes)
    n, total = len(y), float(((y - y.mean()) ** 2).sum())
    if n < LEAST or total == 0:
        return {}
    found = {}
    for key, values in parameters.items():
        x = _design(values)
        coefficients = np.linalg.matrix_rank(x)
        if coefficients < 2 or n - coefficients < 2:
            continue
        left = float(((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum())
        found[key] = max(0.0, 1 - (left / (n - coefficients)) / (total / (n - 1)))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _design(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the columns that are fitted, (n, k): 1, r and r^2 of a number's ranks r, or one for each category."""
    numeric = all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    if numeric and len(set(values)) > FEW:
        r = _ranks(values) / len(values) - 0.5
        return np.stack([np.ones_like(r), r, r**2], axis=1)
    texts = [repr(each) for each in values]
    return np.array([[float(text == each) for each in sorted(set(texts))] for text in texts])


def _ranks(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the rank of each value, (n,); equal ones share the mean of theirs."""
    first: dict[Any, int] = {}
    for place, value in enumerate(sorted(values)):
        first.setdefault(value, place)
    number = Counter(values)
    return np.array([first[value] + (number[value] - 1) / 2 for value in values])
