"""Define classification: the label of a text, by a layer over its last token (Raschka ch. 6; Radford et al. 2018)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from gptlab.data.config import EXAMPLES, Record
from gptlab.errors import UserError, require, require_choice
from gptlab.registry import option
from gptlab.tasks.base import Figures, Reading, Sums

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.data.batches.labelled import LabelledBatch, LabelledTexts
    from gptlab.decoding.decoders import Decoder
    from gptlab.tokenizers import Tokenizer

CHOICES = {"best_by": ("accuracy", "macro_f1", "loss"), "too_long": ("cut", "skip", "refuse")}
MOST_LABELS = 256


@option("task", "classification")
@dataclass
class Classification:
    """Classification: which label a text has, told from its last token."""

    labels: list[str] = field(default_factory=list)  # none: those of the training data, sorted
    # of the loss in training: null | balanced (by how rare a label is) | a list
    class_weights: Any = field(default=None, compare=False)
    best_by: str = field(default="accuracy", compare=False)  # ranks checkpoints and runs: accuracy | macro_f1 | loss
    # a text longer than the context: cut | skip (not if held out) | refuse
    too_long: str = field(default="cut", compare=False)
    # whether the head has a bias; null: where the model's last norm has one
    head_bias: bool | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            require_choice(key, getattr(self, key), choices)
        twice = next((label for label, count in Counter(self.labels).items() if count > 1), None)
        require(twice is None, "labels", self.labels, f"has {twice!r} more than once", "name each label once")
        weights = self.class_weights
        listed = isinstance(weights, list) and all(type(each) in (int, float) and 0 <= each < 1e9 for each in weights)
        todo = "give null, balanced, or a list of numbers from 0 up"
        require(weights in (None, "balanced") or listed, "class_weights", weights, "no such option", todo)

    @property
    def better(self) -> str:
        """The metric that ranks checkpoints and runs."""
        return f"val/{self.best_by}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss in training and on held-out texts, and how often, how evenly and how surely the labels are right."""
        return ("train/loss", "val/loss", "val/accuracy", "val/macro_f1", "val/calibration_error")

    @property
    def predicts_tokens(self) -> bool:
        """Always false: it predicts labels."""
        return False

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Texts with labels, which are examples."""
        return (EXAMPLES,)

    def fitted(self, records: Sequence[Record]) -> Self:
        """Return the task with the labels of the records, unless they were given, and the weights in numbers."""
        for number, record in enumerate(records, 1):
            good = all(isinstance(record.get(key), str) for key in ("text", "label"))
            require(good, "data", f"example {number}", "has no text and label", "choose data=labelled")
        counts = Counter(record["label"] for record in records)
        labels = self.labels or sorted(counts)
        few, many = len(labels) < 2, len(labels) > MOST_LABELS
        why = "is the only label" if few else f"and {len(labels) - 1:,} others are more than {MOST_LABELS} labels"
        todo = f"give texts of 2 to {MOST_LABELS} labels, or choose another data.label"
        require(not few and not many, "task.labels", labels[0], why, todo)
        weights = self.class_weights
        if weights == "balanced":
            rare = next((label for label in labels if not counts[label]), None)
            why = f"the label {rare!r} has no example in training"
            require(rare is None, "task.class_weights", weights, why, "give one, or numbers")
            weights = [len(records) / (len(labels) * counts[label]) for label in labels]
        ok = weights is None or len(weights) == len(labels)
        why = f"has another length than the {len(labels)} labels"
        require(ok, "task.class_weights", weights, why, "give a number for each, in the order of task.labels")
        return dataclasses.replace(self, labels=labels, class_weights=weights)

    def examples(
        self, records: Sequence[Record], tokenizer: Tokenizer, block_size: int, training: bool
    ) -> LabelledTexts:
        """Return texts, `{"text", "label"}` each, as examples."""
        from gptlab.data.batches.labelled import labelled_texts

        return labelled_texts(records, self.labels, tokenizer, block_size, self.too_long, training)

    def head(self, gpt: Any) -> nn.Module:
        """Return the model with a layer over its last token in place of its own head."""
        from gptlab.model.heads import LastTokenHead

        norm = getattr(gpt, "ln_f", None)
        usual = norm is None or getattr(norm, "bias", None) is not None
        return LastTokenHead(gpt, len(self.labels), usual if self.head_bias is None else self.head_bias)

    def losses(self, gpt: Any, x: Tensor, last: Tensor, label: Tensor, reading: Reading) -> Figures:
        """Compute the cross-entropy of each label, (B,), in nats; weighted in training, if there are weights."""
        import torch
        import torch.nn.functional as F

        from gptlab.data.batches.batch import IGNORE

        logits = gpt(x, last).float()
        weighted = gpt.training and self.class_weights
        weights = torch.tensor(self.class_weights, device=logits.device, dtype=logits.dtype) if weighted else None
        loss = {"loss": F.cross_entropy(logits, label, weights, ignore_index=IGNORE, reduction="none")}
        if gpt.training:
            return loss
        confidence, predicted = logits.softmax(-1).max(-1)
        return {**loss, "confidence": confidence, "predicted": predicted}

    def measure(self, figures: Figures, batch: LabelledBatch) -> Sums:
        """Sum nats and targets, and count predictions by their label and by their confidence."""
        from gptlab.data.batches.batch import IGNORE
        from gptlab.tasks.class_scores import calibration_counts, confusion_counts

        label = batch.label.cpu()
        there = label != IGNORE
        confidence, predicted = (figures[name].cpu()[there] for name in ("confidence", "predicted"))
        truth, predicted = label[there], predicted.long()
        return {
            "nats": figures["loss"].sum(),
            "targets": there.sum(),
            "confusion": confusion_counts(truth, predicted, len(self.labels)),
            "calibration": calibration_counts(confidence, predicted == truth),
        }

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the mean loss, and of held-out texts accuracy, macro F1 and expected calibration error."""
        from gptlab.tasks.class_scores import accuracy, calibration_error, macro_f1

        found = {"loss": float(sums["nats"] / sums["targets"])}
        if "confusion" not in sums:
            return found
        confusion, calibration = sums["confusion"], sums["calibration"]
        rest = {"accuracy": accuracy(confusion), "macro_f1": macro_f1(confusion)}
        return {**found, **rest, "calibration_error": calibration_error(calibration)}

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        """Return no curves: there are pictures."""
        return {}

    def details(self, sums: Sums) -> dict[str, Any]:
        """Return the scores of each label, the confusion matrix, and accuracy by confidence, as plain values."""
        from gptlab.tasks.class_scores import details

        return details(self.labels, sums["confusion"], sums["calibration"])

    def pictures(self, sums: Sums) -> dict[str, bytes]:
        """Draw the confusion matrix and the calibration."""
        from gptlab.tasks.class_pictures import class_pictures

        return class_pictures(self.labels, sums["confusion"], sums["calibration"])

    def predict(self, gpt: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the probability of each label for each text."""
        import torch

        from gptlab.data.batches.labelled import encoded

        model: Any = gpt
        device, found = next(gpt.parameters()).device, []
        for text in texts:
            ids = encoded(text, tokenizer)[: model.config.block_size]
            require(bool(ids), "prompt", text, "has no token that the tokenizer knows", "give another text")
            x, last = torch.tensor([ids], device=device), torch.tensor([len(ids) - 1], device=device)
            with torch.no_grad():
                shares = model(x, last).double().softmax(-1)[0].tolist()
            found.append(dict(zip(self.labels, shares, strict=True)))
        return found

    def samples(
        self, gpt: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], decoder: Decoder, seed: int
    ) -> list[str]:
        """Return the label that each prompt is given, with its probability."""
        found = []
        for prompt in prompts:
            try:
                (shares,) = self.predict(gpt, tokenizer, [prompt])
                label = max(shares, key=lambda name: shares[name])
                found.append(f"\n{label} ({shares[label]:.1%})")
            except UserError as error:  # does not stop a run
                found.append(f"\n({error.why})")
        return found
