"""The scores of a classifier equal torchmetrics and NumPy, however the examples are divided."""

from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.labelled import LabelledBatch
from gptlab.tasks.base import Sums
from gptlab.tasks.class_pictures import class_pictures
from gptlab.tasks.class_scores import details
from gptlab.tasks.classification import Classification

K, N = 5, 400
TASK = Classification([f"label {i}" for i in range(K)])


def predicted() -> tuple[Any, Any]:
    """Return float64 probabilities (N, K) of which none is at the end of a part, and labels; the last label is rare."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (N, K)) - np.array([0, 0, 0, 0, 9])
    truth = np.where(draw.random(N) < 0.6, logits.argmax(1), draw.integers(0, K - 1, N))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares, truth


def sums(shares: Any, truth: Any, sizes: list[int]) -> Sums:
    """Measure batches of these sizes, each with an example without a label behind it, and add them up."""
    total: Sums = {}
    at = 0
    for size in sizes:
        rows = torch.tensor(shares[at : at + size])
        confidence, label = rows.max(1)
        loss = -rows.log()[torch.arange(size), torch.tensor(truth[at : at + size])]
        figures = {"loss": loss, "confidence": confidence, "predicted": label}
        padded = {name: torch.cat([values.double(), torch.tensor([0.9])]) for name, values in figures.items()}
        padded["loss"][-1] = 0
        labels = torch.tensor([*truth[at : at + size], IGNORE])
        batch = LabelledBatch(torch.zeros(size + 1, 1), torch.zeros(size + 1), labels)
        for name, values in TASK.measure(padded, batch).items():
            total[name] = total.get(name, torch.zeros(())) + values.double()
        at += size
    return total


def test_scores_equal_others() -> None:
    shares, truth = predicted()
    found = TASK.scores(sums(shares, truth, [N]), None)
    p, y = torch.tensor(shares), torch.tensor(truth)
    present = np.unique([*truth, *shares.argmax(1)])
    assert K - 1 not in present  # a label that does not occur has no F1
    f1 = []
    for label in present:
        hit = np.sum((truth == label) & (shares.argmax(1) == label))
        f1.append(2 * hit / (np.sum(truth == label) + np.sum(shares.argmax(1) == label)))
    assert found["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(float(multiclass_f1_score(p, y, K, average="macro")), abs=1e-6)
    assert found["accuracy"] == pytest.approx(float(multiclass_accuracy(p, y, K, average="micro")), abs=1e-6)
    theirs = float(multiclass_calibration_error(p, y, K, n_bins=15, norm="l1"))
    assert found["calibration_error"] == pytest.approx(theirs, abs=1e-6)
    assert found["loss"] == pytest.approx(-np.log(shares[np.arange(N), truth]).mean(), abs=1e-12)


@pytest.mark.parametrize("sizes", [[1] * N, [7] * 57 + [1], [399, 1]])
def test_scores_are_the_same_however_the_examples_are_divided(sizes: list[int]) -> None:
    shares, truth = predicted()
    whole, parts = (sums(shares, truth, each) for each in ([N], sizes))
    assert torch.equal(whole["confusion"], parts["confusion"])
    assert TASK.scores(parts, None) == pytest.approx(TASK.scores(whole, None), abs=1e-12)


def test_what_the_scores_are_made_of() -> None:
    confusion = torch.tensor([[3.0, 1.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]).double()
    calibration = torch.zeros(3, 15).double()
    calibration[:, 14] = torch.tensor([10.0, 9.8, 7.0])
    found = details(["a", "b", "c"], confusion, calibration)
    assert found["labels"][0] == {
        "label": "a",
        "examples": 4,
        "precision": 0.6,
        "recall": 0.75,
        "f1": pytest.approx(2 / 3),
    }
    assert [found["labels"][2][key] for key in ("precision", "recall", "f1")] == [None] * 3
    assert found["confusion"] == [[3, 1, 0], [2, 4, 0], [0, 0, 0]]
    (part,) = found["calibration"]
    assert (part["examples"], part["confidence"], part["accuracy"]) == (10, pytest.approx(0.98), 0.7)


def test_certainty_is_in_the_last_part_and_a_border_in_the_one_below() -> None:
    label = torch.tensor([0, 0])
    figures = {
        "loss": torch.zeros(2),
        "confidence": torch.tensor([1.0, 0.2], dtype=torch.float64),
        "predicted": torch.zeros(2),
    }
    batch = LabelledBatch(torch.zeros(2, 1), torch.zeros(2), label)
    assert TASK.measure(figures, batch)["calibration"][0].nonzero().flatten().tolist() == [2, 14]


@pytest.mark.slow
def test_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells of the matrix are the counts, and the bars as high as the accuracy of their part."""
    shares, truth = predicted()
    found, drawn = sums(shares, truth, [N]), list[Any]()
    monkeypatch.setattr("gptlab.tasks.class_pictures._png", lambda figure: drawn.append(figure) or b"")
    assert set(class_pictures(["a" * 50, *"bcde"], found["confusion"], found["calibration"])) == {
        "confusion",
        "calibration",
    }
    matrix, reliability = (figure.axes[0] for figure in drawn)
    counts = [int(text.get_text()) for text in matrix.texts]
    assert counts == found["confusion"].flatten().int().tolist()
    assert max(len(tick.get_text()) for tick in matrix.get_xticklabels()) == 24
    number, _, right = found["calibration"]
    heights = [bar.get_height() for bar in reliability.containers[0]]
    assert heights == pytest.approx((right / number).nan_to_num().tolist())
    assert reliability.get_title() == f"expected calibration error {TASK.scores(found, None)['calibration_error']:.1%}"
