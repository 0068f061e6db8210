"""Define every metric once: its name, unit and format, which way is better, and where it is shown.

Console, TensorBoard's charts, summaries, tables, reports, comparison and sweeps read this table. A new metric is one
row here (or one `register` in another package) and its computation.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Metric:
    """A quantity that is logged or reported; `better` is None where neither direction is."""

    name: str  # as in metrics.csv: group/quantity
    head: str  # its column's heading
    unit: str
    format: str  # for one run
    precise: str  # for comparisons, with more digits
    better: str | None = None
    chart: tuple[str, str] | None = None  # TensorBoard's custom scalars: (category, title); one chart may hold several
    summary: bool = False  # it is in summary.json and in HParams
    shown: frozenset[str] = frozenset()  # line (of a validation) | panel (at a run's end) | evaluate | report | compare
    per: str = ""  # token | byte: its denominator; per token, runs compare only with the same tokenizer

    @property
    def key(self) -> str:
        """The name in summary.json and JSON output, such as val_loss."""
        return self.name.replace("/", "_")

    @property
    def quantity(self) -> str:
        """The last part of its name, such as bits_per_byte."""
        return self.name.rpartition("/")[2]

    @property
    def axis(self) -> str:
        """The label of an axis on which it is drawn."""
        words = self.quantity.replace("_", " ")
        return f"{words} ({self.unit})" if self.unit not in ("", words) else words

    def over(self, target: str) -> "Metric":
        """Return it with its unit for runs whose loss is not per token, but per pair, say (gptlab.tasks.base)."""
        return replace(self, unit=self.unit.replace("per token", f"per {target}"))

    @property
    def sign(self) -> int:
        """The factor that makes the lowest value the best."""
        return -1 if self.better == HIGHER else 1

    @property
    def most(self) -> str:
        """The word for its best value."""
        return "highest" if self.better == HIGHER else "lowest"

    def best(self, values: Iterable[float]) -> float:
        """Return the best of some values."""
        return min(values, key=lambda value: self.sign * value)

    def text(self, value: float | None, precise: bool = False) -> str:
        """Return the value as text: `-` if it is not known, `not finite` for NaN and infinities."""
        if value is None:
            return "-"
        return format(value, self.precise if precise else self.format) if math.isfinite(value) else "not finite"


def _scores() -> list[Metric]:
    """Return the three metrics of how well a model predicts text, in training and on held-out text.

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
                    per="byte" if quantity == "bits_per_byte" else "token",
                )
            )
    return found


def _of_samples() -> list[Metric]:
    """Return the metrics of generated texts, which gptlab.evaluation.frontier computes."""
    rows = {
        "perplexity": ("perplexity", ".3f"),
        "distinct_1": ("dist-1", ".3f"),
        "distinct_2": ("dist-2", ".3f"),
        "distinct_3": ("dist-3", ".3f"),
        "self_bleu": ("self-BLEU", ".3f"),
        "repetition": ("rep-4", ".3f"),
        "longest_copy": ("copy", ",.0f"),
    }
    shown = frozenset({"frontier"})
    return [Metric(f"samples/{name}", head, "", form, form, shown=shown) for name, (head, form) in rows.items()]


def _of_labels() -> list[Metric]:
    """Return the metrics of a classifier on held-out examples, which gptlab.tasks.class_scores computes."""
    rows = {
        "accuracy": ("accuracy", "share of examples", ".1%", ".2%", HIGHER),
        "macro_f1": ("macro F1", "", ".3f", ".4f", HIGHER),
        "calibration_error": ("ECE", "", ".3f", ".4f", LOWER),
    }
    return [
        Metric(
            f"val/{name}", *row, ("train and val", name.replace("_", " ")), summary=True,
            shown=frozenset({"evaluate", "report"} | ({"line", "panel"} if name == "accuracy" else set())),
        )
        for name, row in rows.items()
    ]  # fmt: skip


def _of_pairs() -> list[Metric]:
    """Return the metrics of a model that is tuned on preferences, which gptlab.tasks.preference computes."""
    everywhere, figures = frozenset({"panel", "evaluate", "report"}), ("preferences", "rewards")
    return [
        Metric("val/reward_margin", "margin", "", ".3f", ".4f", HIGHER, figures, True, everywhere),
        Metric("val/chosen_reward", "chosen", "", ".3f", ".4f", None, figures, True, frozenset({"evaluate"})),
        Metric("val/rejected_reward", "rejected", "", ".3f", ".4f", None, figures, True, frozenset({"evaluate"})),
    ]


def _of_tasks() -> list[Metric]:
    """Return the metrics of tasks of word prediction, by lm-eval's names; gptlab.evaluation.choices computes them."""
    heads = {"acc": "accuracy", "acc_norm": "accuracy per character"}
    rouge = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
    shown = frozenset({"tasks"})
    found = [Metric(f"tasks/{name}", name, unit, ".3f", ".4f", HIGHER, shown=shown) for name, unit in heads.items()]
    found.append(Metric("tasks/acc_bytes", "acc_bytes", "accuracy per byte", ".3f", ".4f", HIGHER))
    cost = Metric("tasks/bits_per_byte", "bits/byte", "bits per byte of the answer", ".3f", ".4f", LOWER, shown=shown)
    return [
        *found,
        cost,
        *(Metric(f"tasks/{name}", head, head, ".3f", ".4f", HIGHER, shown=shown) for name, head in rouge.items()),
    ]


_TABLE = {
    metric.name: metric
    for metric in [
        *_scores(),
        *_of_labels(),
        *_of_samples(),
        *_of_pairs(),
        *_of_tasks(),
        Metric(
            "val/distillation_loss", "distillation loss", "nats per token", ".3f", ".4f", LOWER,
            ("train and val", "distillation loss"), summary=True, shown=frozenset({"line", "panel"}),
        ),
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


def tensorboard_tag(name: str) -> str:
    """Return the name of a metric in TensorBoard, which shows groups by the alphabet: losses come first."""
    group, _, rest = name.partition("/")
    if group in ("train", "val") and rest == "loss":
        return f"loss/{group}"
    return f"norms/{name}" if group in ("grad_norm", "weight_norm") else name


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
    """Return the row of a metric; one that is not registered is shown with four digits."""
    return _TABLE.get(name) or Metric(name, name, "", ".4g", ".4g")


def shown_in(place: str, names: Collection[str] | None = None) -> list[Metric]:
    """Return the metrics that are shown in a place; with `names` (a task's own), only those."""
    return [each for each in _TABLE.values() if place in each.shown and (names is None or each.name in names)]


def counted(part: int, whole: int | None, what: str) -> str:
    """Return such as `12 of 3,400 characters (0.4%)`; without the share where the whole is not known."""
    if not whole:
        return f"{part:,} {what}"
    share = 100 * part / whole
    told = f"{share:.1f}%" if share >= 0.1 or not part else "less than 0.1%"
    return f"{part:,} of {whole:,} {what} ({told})"


def in_summary(names: Collection[str] | None = None) -> list[Metric]:
    """Return the metrics that summary.json may hold; with `names` (a task's own), only those."""
    return [each for each in _TABLE.values() if each.summary and (names is None or each.name in names)]


@dataclass(frozen=True)
class Score:
    """The cost of a text under a model: `nats` in all, over `tokens` predicted tokens that spell `bytes` bytes."""

    nats: float
    tokens: int
    bytes: float

    @property
    def loss(self) -> float:
        """Mean nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """The exponential of the loss: the number of equally likely tokens among which guessing would be as hard."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits to encode one byte of the text: comparable between tokenizers, unlike loss and perplexity."""
        return self.nats / math.log(2) / self.bytes
