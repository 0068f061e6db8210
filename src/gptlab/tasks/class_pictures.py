"""Draw how a classifier errs as PNG: the confusion matrix, and confidence beside accuracy (a reliability diagram)."""

import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gptlab.tasks.class_scores import BINS, calibration_error

MOST_NUMBERS = 20  # labels, beyond which the cells of a matrix are too small for numbers
LONGEST = 24  # characters of a label


def class_pictures(labels: Sequence[str], confusion: Tensor, calibration: Tensor) -> dict[str, bytes]:
    """Return both pictures by their names; none where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return {}
    return {"confusion": _confusion(labels, confusion), "calibration": _calibration(calibration)}


def _confusion(labels: Sequence[str], confusion: Tensor) -> bytes:
    """Draw the confusion matrix: each row in shares of the examples that have its label."""
    names = [label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…" for label in labels]
    side = min(12.0, 2.6 + 0.5 * len(names))
    figure, panel = _panel(side + 0.8, side)
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    image = panel.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    panel.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    panel.set_yticks(range(len(names)), names)
    if len(names) <= MOST_NUMBERS:
        for row, counts in enumerate(confusion.tolist()):
            for column, count in enumerate(counts):
                colour = "white" if shares[row, column] > 0.5 else "#222"
                panel.text(column, row, f"{count:,.0f}", ha="center", va="center", color=colour, fontsize=9)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    figure.colorbar(image, ax=panel, shrink=0.7, label="share of the row")
    return _png(figure)


def _calibration(calibration: Tensor) -> bytes:
    """Draw the accuracy of the examples in each part of the confidences: on the diagonal, confidence is right."""
    number, _, right = calibration
    figure, panel = _panel(4.6, 4.2)
    at = [(i + 0.5) / BINS for i in range(BINS)]
    heights = (right / number.clamp(min=1)).tolist()
    panel.bar(at, heights, width=0.9 / BINS, color="#0072B2", label="accuracy")
    panel.bar(at, (number / number.sum()).tolist(), width=0.4 / BINS, color="#E69F00", label="share of examples")
    panel.plot([0, 1], [0, 1], color="#444", lw=1, ls="--")
    panel.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence in the predicted label", ylabel="share")
    panel.set_title(f"expected calibration error {calibration_error(calibration):.1%}", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="upper left")
    return _png(figure)


def _panel(width: float, height: float) -> tuple[Any, Any]:
    """Return an empty picture, sized in inches, and its panel; without pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()
