"""A task of another package that learns from records: what kind a text is, from texts with their labels."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

import gptlab
from gptlab.data.batches.batch import IGNORE
from gptlab.data.config import ExampleData
from gptlab.errors import UserError, require
from tests.tasks.toys import Classifier, Ends, Labelled


@gptlab.option("data", "labelled_lines")
@dataclass
class LabelledLines(ExampleData):
    """Take texts and labels from a file of JSON lines."""

    file: str = "train.jsonl"
    val_file: str | None = None

    def examples(self) -> Iterator[Mapping[str, Any]]:
        return self._read(self.file)

    def held_out(self) -> Iterator[Mapping[str, Any]] | None:
        return self._read(self.val_file) if self.val_file else None

    def _read(self, name: str) -> Iterator[Mapping[str, Any]]:
        with open(name) as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise UserError("data.file", name, f"line {number} is no JSON", "mend it") from error


class Texts:
    """Texts of unequal lengths, with the number of the label of each."""

    def __init__(self, ids: Sequence[Sequence[int]], labels: Sequence[int], cut: int) -> None:
        self.ids, self.labels, self.cut = ids, labels, cut
        self.lengths, self.targets = np.array([len(each) for each in ids]), np.ones(len(ids), np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: Sequence[int]) -> Labelled:
        found = [(self.ids[i], self.labels[i]) if i < len(self) else ([0], IGNORE) for i in indices]
        x = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in found], batch_first=True)
        last = torch.tensor([len(ids) - 1 for ids, _ in found])
        return Labelled(x, last, torch.tensor([label for _, label in found]))

    def describe(self) -> str:
        return f"{self.cut} cut" if self.cut else ""


@gptlab.option("task", "labels")
@dataclass
class Labels(Ends):
    """Tell which label a text has."""

    names: list[str] = field(default_factory=list)  # of the labels; empty: those of the data

    @property
    def learns_from(self) -> tuple[str, ...]:
        return ("examples",)

    def fitted(self, records: Sequence[Mapping[str, Any]]) -> "Labels":
        return replace(self, names=self.names or sorted({each["label"] for each in records}))

    def examples(self, records: Sequence[Mapping[str, Any]], tokenizer: Any, block_size: int, training: bool) -> Texts:
        for each in records:
            known = each["label"] in self.names
            require(known, "data", each["label"], "was never seen", f"give one of {', '.join(self.names)}")
        ids = [tokenizer.encode(each["text"]) for each in records]
        labels = [self.names.index(each["label"]) for each in records]
        return Texts([each[:block_size] for each in ids], labels, sum(len(each) > block_size for each in ids))

    def head(self, gpt: Any) -> Classifier:
        return Classifier(gpt, len(self.names))
