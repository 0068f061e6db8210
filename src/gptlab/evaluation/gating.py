"""Decide after each pair of runs whether a change is kept: one test for a trial, and its level among all of a ledger.

The test is Wald's (1945): after each pair of seeds, the likelihood ratio of Student's t under an improvement of
`effect` deviations to that under none. Where there is none, or the change is worse, the ratio exceeds 1 / level at any
time in at most `level` of the cases, whatever makes one stop; where there is such an improvement, it falls below `miss`
in at most `miss` of them. Runs of both sides are taken to deviate normally, and by as much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gptlab.evaluation.sequential import Samples, confidence_sequence, unpaired
from gptlab.evaluation.statistics import Array

KEPT, REJECTED, UNDECIDED = "kept", "rejected", "undecided"
FEWEST = 2  # pairs, below which no deviation is known
EARLY = 0.9  # share of alpha that the planned trials have; what lies beyond them has the rest
_REACH = 12  # of the integral about the mode of what is integrated, whose deviation is at most 1
_STEPS = np.linspace(0, 1, 241)


@dataclass(frozen=True)
class Rule:
    """The settings of the test of one trial."""

    effect: float  # the least improvement worth finding, in deviations of single runs
    level: float  # the chance that a change which improves nothing is kept
    miss: float  # the chance that one of `effect` is rejected
    most: int  # pairs, after which it is undecided


@dataclass(frozen=True)
class Decision:
    """The result after some pairs of runs."""

    verdict: str | None  # None: one has to go on
    ratio: float | None  # the likelihood ratio; None: no deviation is known
    difference: float | None  # change minus base, in the metric's unit
    low: float | None  # its interval, which holds the truth at all times at once
    high: float | None


def level_of(trial: int, kept: int, alpha: float, planned: int) -> float:
    """Return the level of trial 1, 2 ... of a ledger in which `kept` changes have been kept before it.

    By e-LOND (Xu & Ramdas 2024), the expected share of false ones among all that are kept is at most alpha, however the
    trials depend on each other; where no change improves anything, so is the chance that any is kept. The `planned`
    trials have equal shares of alpha, later ones shares that shrink.
    """
    late = trial - planned
    share = EARLY / planned if late <= 0 else (1 - EARLY) / (late * (late + 1))
    return min(1.0, alpha * share * (kept + 1))


def log_ratio(t: ArrayLike, size: float, freedom: int, effect: float) -> Array:
    """Return the logarithm of the density of Student's t under an effect to that under none.

    `size` is 1 over the variance of the difference in variances of one run, `effect` is in deviations of one run. The
    noncentral density (Johnson & Kotz 1970) is an integral over the unknown deviation, here a sum about its mode.
    """
    found = np.asarray(t, np.float64)
    shift = effect * math.sqrt(size)
    slope = shift * found / np.sqrt(freedom + found**2)
    mode = (slope + np.sqrt(slope**2 + 4 * freedom)) / 2
    low = np.maximum(mode - _REACH, 0)
    width = mode + _REACH - low
    at = low[..., None] + width[..., None] * _STEPS
    logs = freedom * np.log(np.maximum(at, 1e-300)) - at**2 / 2 + slope[..., None] * at
    over = np.logaddexp.reduce(logs, axis=-1) + np.log(width * _STEPS[1])
    under = (freedom - 1) / 2 * math.log(2) + math.lgamma((freedom + 1) / 2)
    return np.asarray(over - under - shift**2 / 2)


def decide(base: Sequence[float], changed: Sequence[float], sign: int, rule: Rule) -> Decision:
    """Return the decision after the pairs of runs so far; `sign` is 1 where lower is better, else -1.

    A score that is not finite is that of a run that has diverged. Of the change it is rejected for one; the base's are
    finite.
    """
    if not all(map(math.isfinite, changed)):
        return Decision(REJECTED, None, None, None, None)
    pairs = min(len(base), len(changed))
    base, changed = base[:pairs], changed[:pairs]
    found = unpaired(base, changed) if pairs >= FEWEST else None
    if found is None:  # too few, or all runs of a side are equal: no deviation can be told
        over = pairs >= rule.most
        return Decision(UNDECIDED if over else None, None, None, None, None)
    ratio = float(log_ratio(_t(found, sign), found.size, found.freedom, rule.effect))
    verdict = UNDECIDED if pairs >= rule.most else None
    if ratio >= -math.log(rule.level):
        verdict = KEPT
    elif ratio <= math.log(rule.miss):
        verdict = REJECTED
    ends = confidence_sequence(found)
    low, high = ends if all(map(math.isfinite, ends)) else (None, None)
    return Decision(verdict, math.exp(min(700.0, ratio)), found.difference, low, high)


def _t(found: Samples, sign: int) -> float:
    """Return Student's t of the improvement."""
    return -sign * found.difference / found.deviation * math.sqrt(found.size)
