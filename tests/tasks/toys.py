"""A task of another package: what is said of a whole window, with a head and batches of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import gptlab
from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.windows import held_out
from gptlab.tasks.base import Figures, Reading, Sums


class Labelled(NamedTuple):
    """Windows, where each of them ends, and its class; IGNORE past the end of the examples."""

    x: Tensor  # (B, T)
    last: Tensor  # (B,)
    label: Tensor  # (B,)
    step_targets: int | None = None
    step_tokens: int | None = None


def labelled(batch: Batch, step_targets: int | None = None) -> Labelled:
    """Return whether the last byte of a window is a vowel."""
    counted = batch.y != IGNORE
    last = (counted.sum(1) - 1).clamp(min=0)
    label = torch.isin(batch.x[torch.arange(len(last)), last], torch.tensor(list(b"aeiou"))).long()
    return Labelled(batch.x, last, label.masked_fill(~counted.any(1), IGNORE), step_targets, batch.step_tokens)


class LabelledWindows(Dataset[Labelled]):
    """Windows as examples; each is one target."""

    def __init__(self, windows: Any, step_targets: int | None = None) -> None:
        self.windows, self.step_targets = windows, step_targets

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: Any) -> Labelled:
        return labelled(self.windows.__getitems__(indices), self.step_targets)


class LabelledData(TextDataModule):
    def examples(self, windows: Any) -> LabelledWindows:
        return LabelledWindows(windows, self.config.batch_size)


class Classifier(nn.Module):
    """A linear layer over what the model says at the last token of each example, (B, n_classes)."""

    def __init__(self, gpt: Any, n_classes: int) -> None:
        super().__init__()
        self.gpt, self.config = gpt, gpt.config
        gpt.lm_head = nn.Identity()
        self.score = nn.Linear(gpt.config.n_embd, n_classes)

    def forward(self, x: Tensor, last: Tensor) -> Tensor:
        found: Tensor = self.score(self.gpt.hidden(x)[torch.arange(len(x)), last])
        return found


@gptlab.option("task", "ends")
@dataclass
class Ends:
    """Tell how a window ends."""

    n_classes: int = 2

    @property
    def better(self) -> str:
        return "val/accuracy"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("train/loss", "val/loss", "val/accuracy")

    @property
    def predicts_tokens(self) -> bool:
        return False

    @property
    def learns_from(self) -> tuple[str, ...]:
        return ("text",)

    def data_module(self, corpus: Any, data: Any, block_size: int, seed: int) -> LabelledData:
        return LabelledData(corpus, data, block_size, seed)

    def held_out(self, tokens: Any, block_size: int, eot: int, by_documents: bool) -> LabelledWindows:
        return LabelledWindows(held_out(tokens, block_size, eot, by_documents))

    def head(self, gpt: Any) -> Classifier:
        return Classifier(gpt, self.n_classes)

    def losses(self, gpt: Any, x: Tensor, last: Tensor, label: Tensor, reading: Reading) -> Figures:
        logits = gpt(x, last).float()
        loss = {"loss": F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")}
        return loss if gpt.training else {**loss, "right": (logits.argmax(-1) == label).float()}

    def measure(self, figures: Figures, batch: Labelled) -> Sums:
        sums = {"nats": figures["loss"].sum(), "targets": (batch.label != IGNORE).sum()}
        return {**sums, "right": figures["right"].sum()}

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        found = {"loss": float(sums["nats"] / sums["targets"])}
        return found | ({"accuracy": float(sums["right"] / sums["targets"])} if "right" in sums else {})

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        return {}

    def samples(self, gpt: Any, tokenizer: Any, prompts: Sequence[str], decoder: Any, seed: int) -> list[str]:
        return [": a vowel" if prompt[-1] in "aeiou" else ": no vowel" for prompt in prompts]
