"""Define every metric once: its name, unit and format, which way is better, and where it is shown.

Console, TensorBoard's charts, summaries, tables, reports and comparison read this table. A new metric is one row here
(or one `register` in another package) and its computation.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Metric:
    """One quantity that is logged or reported; `better` is None where neither way is."""

    name: str  # as in metrics.csv and TensorBoard: group/quantity
    head: str  # above its column in a table
    unit: str
    format: str  # of one run
    precise: str  # where runs are compared
    better: str | None = None
    chart: tuple[str, str] | None = None  # TensorBoard's custom scalars: (category, title); one chart may hold several
    summary: bool = False  # is in summary.json and in HParams
    shown: frozenset[str] = frozenset()  # line (of a validation) | panel (at a run's end) | evaluate | report | compare

    @property
    def key(self) -> str:
        """Its name in summary.json and JSON output, such as val_loss."""
        return self.name.replace("/", "_")

    def text(self, value: float | None, precise: bool = False) -> str:
        """The value as people read it: `-` where it is not known, `not finite` for NaN and infinities."""
        if value is None:
            return "-"
        return format(value, self.precise if precise else self.format) if math.isfinite(value) else "not finite"


def _scores() -> list[Metric]:
    """Return the three ways to say how well a model predicts a text, in training and on held-out text.

    Jurafsky & Martin ch. 10; Raschka sec. 5.1.
    """
    quantities = {
        "loss": ("loss", "nats per token", ".3f", ".4f"),
        "perplexity": ("perplexity", "", ",.3f", ",.2f"),
        "bits_per_byte": ("bits/byte", "bits per byte", ".3f", ".4f"),
    }
    line = {"val/loss", "val/bits_per_byte"}
    found = []
    for split in ("train", "val"):
        for quantity, (head, unit, form, precise) in quantities.items():
            name = f"{split}/{quantity}"
            where = {"panel", "evaluate", "report", "compare"} if split == "val" else set()
            found.append(
                Metric(
                    name,
                    head if quantity != "loss" else f"{split} loss",
                    unit,
                    form,
                    precise,
                    LOWER,
                    ("train and val", quantity.replace("_", " ")),
                    summary=split == "val" or quantity == "loss",
                    shown=frozenset(where | ({"line"} if name in line else set())),
                )
            )
    return found


_TABLE = {
    metric.name: metric
    for metric in [
        *_scores(),
        Metric("optim/lr", "learning rate", "", ".3g", ".3g", chart=("optimizer", "learning rate")),
        Metric("optim/grad_norm", "grad norm", "", ".3f", ".4f", chart=("optimizer", "gradient norm")),
        Metric(
            "train/tokens_per_second", "tokens/s", "tokens per second", ",.0f", ",.0f", HIGHER,
            ("speed", "tokens per second"),
        ),
        Metric("train/mfu", "MFU", "share of peak FLOPs", ".1%", ".2%", HIGHER, ("speed", "MFU")),
        Metric(
            "train/data_wait", "data wait", "share of training time", ".1%", ".2%", LOWER,
            ("speed", "share of time waiting for data"),
        ),
    ]
}  # fmt: skip


def register(metric: Metric) -> Metric:
    """Add a metric of another package to the table; raises ValueError where another one has its name."""
    if _TABLE.get(metric.name, metric) != metric:
        raise ValueError(f"there is a metric {metric.name} already")
    _TABLE[metric.name] = metric
    return metric


def metrics() -> list[Metric]:
    """Return the whole table in its order."""
    return list(_TABLE.values())


def metric(name: str) -> Metric:
    """Return the row of a metric; one that nobody described is shown with four digits."""
    return _TABLE.get(name) or Metric(name, name, "", ".4g", ".4g")


def in_summary(names: Collection[str] | None = None) -> list[Metric]:
    """Return the metrics that summary.json may hold, those of `names` only where they are given (a task's own)."""
    return [each for each in _TABLE.values() if each.summary and (names is None or each.name in names)]


@dataclass(frozen=True)
class Score:
    """What a text cost a model: `nats` in all, over `tokens` predicted tokens that spell `bytes` bytes of UTF-8."""

    nats: float
    tokens: int
    bytes: float

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to guess among."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode one byte of the text: comparable over tokenizers, unlike loss and perplexity."""
        return self.nats / math.log(2) / self.bytes
