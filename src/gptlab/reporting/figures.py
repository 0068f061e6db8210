"""The figures of a run that reports show: where each is found, its name, how it is written, and its unit."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Text = Callable[[float | None], str]


def _number(form: str) -> Text:
    def text(value: float | None) -> str:
        return "-" if value is None else format(value, form) if math.isfinite(value) else "not finite"

    return text


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@dataclass(frozen=True)
class Figure:
    """One figure of a run."""

    head: str  # above its column, and in sentences
    text: Text  # writes a value in few characters
    summary: str  # its key in summary.json
    spared: int  # a narrow terminal goes without the lowest first
    metric: str | None = None  # its curve in metrics.csv; the last value stands for a summary's
    training_metric: str | None = None  # the same measured in training, where that compares
    axis: str = ""  # names an axis of a picture


# in the order of the table
FIGURES = {
    "steps": Figure("steps", _number(",.0f"), "steps", 6),
    "tokens": Figure("tokens", _number(",.0f"), "tokens", 2),
    "flops": Figure("FLOPs", _number(".2e"), "flops", 3),
    "seconds": Figure("time", _clock, "seconds", 5),
    "val_loss": Figure(
        "val loss", _number(".4f"), "val_loss", 8, "val/loss", "train/loss", axis="loss (nats per token)"
    ),
    "perplexity": Figure("perplexity", _number(",.2f"), "val_perplexity", 4, "val/perplexity"),
    "bits_per_byte": Figure(
        "bits/byte", _number(".4f"), "val_bits_per_byte", 7, "val/bits_per_byte", axis="bits per byte"
    ),
    "tokens_per_second": Figure("tokens/s", _number(",.0f"), "tokens_per_second", 1, "train/tokens_per_second"),
}
PER_TOKEN = "val_loss"  # ranks runs of one tokenizer
PER_BYTE = "bits_per_byte"  # ranks runs of several
SPARED = sorted((key for key in FIGURES if key != PER_TOKEN), key=lambda key: FIGURES[key].spared)
