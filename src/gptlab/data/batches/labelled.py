"""Turn texts with labels into examples: one a row, padded at its end, with the place of its last token."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.order import Ints
from gptlab.data.config import Record
from gptlab.errors import require
from gptlab.tokenizers import Tokenizer


class LabelledBatch(NamedTuple):
    """Texts, where each of them ends, and the number of its label."""

    x: Tensor  # (B, T) int64; padding is 0
    last: Tensor  # (B,) int64, the position of the last token
    label: Tensor  # (B,) int64; IGNORE past the end of the examples
    step_targets: int | None = None
    step_tokens: int | None = None


class LabelledTexts:
    """Encoded texts with the numbers of their labels; `cut` and `skipped` count those that were too long."""

    def __init__(self, ids: Sequence[Ints], labels: Sequence[int], cut: int, skipped: int) -> None:
        self.ids, self.labels, self.cut, self.skipped = ids, labels, cut, skipped
        self.lengths: Ints = np.array([len(each) for each in ids], np.int64)
        self.targets: Ints = np.ones(len(ids), np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: Sequence[int]) -> LabelledBatch:
        """Return texts as a batch, padded at their ends to the longest; one past the end has no label."""
        nothing = np.zeros(1, np.int64)
        rows = [self.ids[i] if i < len(self) else nothing for i in indices]
        x = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for row, ids in zip(x, rows, strict=True):
            row[: len(ids)] = ids
        last = torch.tensor([len(ids) - 1 for ids in rows])
        label = torch.tensor([self.labels[i] if i < len(self) else IGNORE for i in indices])
        return LabelledBatch(torch.from_numpy(x), last, label)

    def describe(self) -> str:
        """Return how many texts were cut or left out."""
        said = [f"{self.cut:,} cut at their end"] if self.cut else []
        said += [f"{self.skipped:,} left out: too long"] if self.skipped else []
        return ", ".join(said)


def encoded(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text as a classifier reads it, after those with which texts of the tokenizer begin."""
    return [*tokenizer.start, *tokenizer.encode(text)]


def labelled_texts(
    records: Sequence[Record],
    labels: Sequence[str],
    tokenizer: Tokenizer,
    block_size: int,
    too_long: str,
    training: bool,
) -> LabelledTexts:
    """Return `{"text", "label"}` records as examples.

    A text of more than block_size ids is cut at its end, left out (`skip`, in training only), or refused. Raises
    UserError, also where a label is none of `labels`, or a text has no ids.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    ids, found, cut = list[Ints](), list[int](), 0
    part = "training" if training else "held-out"
    for number, record in enumerate(records, 1):
        where, label = f"{part} example {number}", record["label"]
        todo = f"drop it, or train with it; the labels are {shortened(labels)}"
        require(label in numbers, "data", where, f"has the label {label!r}, which was never seen in training", todo)
        row = encoded(record["text"], tokenizer)
        require(bool(row), "data", where, "has no token that the tokenizer knows", "drop it")
        longer = len(row) > block_size
        why = f"has {len(row):,} tokens, and the context has room for {block_size:,}"
        todo = "shorten it, raise model.block_size, or task.too_long=cut"
        require(not longer or too_long != "refuse", "data", where, why, todo)
        if longer and too_long == "skip" and training:
            continue
        cut += longer
        ids.append(np.array(row[:block_size], np.int64))
        found.append(numbers[label])
    why = f"leaves out all {len(records):,} training examples: none fits in model.block_size={block_size}"
    require(bool(found) or not records, "task.too_long", "skip", why, "raise model.block_size, or task.too_long=cut")
    return LabelledTexts(ids, found, cut, len(records) - len(found))


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Return names as a list in words, of many only the first."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
