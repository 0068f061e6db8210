"""Compute the scores of a classifier from counts that add up over batches and ranks.

`confusion` (K, K) counts examples by their true label (the row) and the predicted one. `calibration` (3, BINS) has, for
the examples whose label was predicted with a confidence in each part of [0, 1], their number, the sum of the
confidences, and the number of right ones.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BINS = 15  # equal parts of [0, 1], each with its upper end (Guo et al. 2017)


def confusion_counts(truth: Tensor, predicted: Tensor, number: int) -> Tensor:
    """Return how often each label (N,) of `number` was predicted as each, (K, K) in float64."""
    return torch.bincount(truth * number + predicted, minlength=number**2).view(number, number).double()


def calibration_counts(confidence: Tensor, right: Tensor) -> Tensor:
    """Return the sums of confidences (N,) and of what was right (N,) in each part of [0, 1], (3, BINS) in float64."""
    part = ((confidence.double() * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    weights = (torch.ones_like(confidence), confidence, right)
    return torch.stack([torch.bincount(part, each.double(), minlength=BINS) for each in weights])


def accuracy(confusion: Tensor) -> float:
    """Return the share of examples whose label was predicted."""
    return float(confusion.trace() / confusion.sum())


def by_label(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return precision, recall and F1 of each label, (K,); NaN where they are not defined.

    F1, the harmonic mean of the two, is not defined for a label that no example has and none was given.
    """
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return right / predicted, right / true, 2 * right / (true + predicted)


def macro_f1(confusion: Tensor) -> float:
    """Return the mean F1 of the labels for which it is defined: each counts as much, however rare it is."""
    return float(by_label(confusion)[2].nanmean())


def calibration_error(calibration: Tensor) -> float:
    """Return the expected calibration error: how far confidence and accuracy are apart, as a mean over the examples."""
    number, confidence, right = calibration
    return float((confidence - right).abs().sum() / number.sum())


def details(labels: Sequence[str], confusion: Tensor, calibration: Tensor) -> dict[str, Any]:
    """Return all that the scores are made of as plain values: by label, the confusion matrix, and by confidence."""
    precision, recall, f1 = ([None if x != x else x for x in each.tolist()] for each in by_label(confusion))
    examples = [int(n) for n in confusion.sum(1)]
    rows = zip(labels, examples, precision, recall, f1, strict=True)
    parts = [
        {"low": i / BINS, "high": (i + 1) / BINS, "examples": int(n), "confidence": c / n, "accuracy": r / n}
        for i, (n, c, r) in enumerate(calibration.T.tolist())
        if n
    ]
    return {
        "labels": [dict(zip(("label", "examples", "precision", "recall", "f1"), row, strict=True)) for row in rows],
        "confusion": [[int(n) for n in row] for row in confusion.tolist()],
        "calibration": parts,
    }
