"""Turn encoded pairs of answers into examples, with their log-probabilities under a reference model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptlab.data.batches.answers import AnswerBatch
from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.chat import Rows, conversations, one_a_row
from gptlab.data.batches.order import Ints
from gptlab.errors import require


class PairBatch(NamedTuple):
    """Pairs of a chosen and a rejected answer, each with its prompt; `step_targets` counts pairs."""

    x: Tensor  # (B, 2, T) int64
    y: Tensor  # (B, 2, T) int64; IGNORE where none counts
    reference: Tensor  # (B, 2) float32, log-probabilities in nats
    step_targets: int | None = None
    step_tokens: int | None = None


class Pairs:
    """Pairs as examples: that of number i has the rows 2i and 2i + 1, the chosen answer first.

    `usable` says which of them have two answers that differ; the others count as no target. `reference` are the
    log-probabilities of both answers under the reference, (N, 2), NaN until they are known.
    """

    def __init__(self, rows: Rows, usable: Sequence[bool], cut: int, skipped: int) -> None:
        self.rows, self.cut, self.skipped = rows, cut, skipped
        self.lengths: Ints = rows.lengths.reshape(-1, 2).sum(1)
        self.targets: Ints = np.array(usable, np.int64)
        self.longest_row = int(rows.lengths.max(initial=0))
        self.reference = torch.full((len(self.targets), 2), torch.nan)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: Sequence[int]) -> PairBatch:
        """Return pairs as a batch, padded at their ends to the longest answer; one past the end is empty."""
        batch = self.rows.__getitems__([2 * i + side for i in indices for side in (0, 1)])
        x, y = (each.view(len(indices), 2, -1) for each in (batch.x, batch.y))
        usable = torch.tensor([i < len(self) and bool(self.targets[i]) for i in indices])
        reference = torch.stack([self.reference[i] if i < len(self) else torch.zeros(2) for i in indices])
        y = y.masked_fill(~usable[:, None, None], IGNORE)
        return PairBatch(x, y, reference.masked_fill(~usable[:, None], 0.0))

    def describe(self) -> str:
        """Return how many pairs were cut or left out."""
        said = [f"{self.cut:,} pairs cut at their end"] if self.cut else []
        said += [f"{self.skipped:,} left out: too long, or their answers do not differ"] if self.skipped else []
        return ", ".join(said)


def pairs(
    answers: Sequence[tuple[Sequence[int], Sequence[bool]]], block_size: int, too_long: str, keep_all: bool
) -> Pairs:
    """Return pairs of answers, each given by the ids with its prompt and by which of them count, chosen and rejected in
    turns.

    An answer of more than block_size targets is cut at its end, its pair left out (`skip`), or refused. A pair whose
    answers do not differ in what is left of them is left out too, unless `keep_all`. Raises UserError.
    """
    found = conversations(answers, block_size, "cut", keep_all=True)
    sizes = np.array([len(ids) for ids, _ in answers]).reshape(-1, 2).max(1, initial=0)
    longer = sizes > block_size + 1
    for number in np.flatnonzero(longer)[: too_long == "refuse"].tolist():
        why = f"has {sizes[number]:,} tokens, and a row has room for {block_size + 1:,}"
        todo = "shorten it, raise model.block_size, or task.too_long=cut"
        require(False, "data", f"example {number + 1}", why, todo)
    usable = np.array([_differ(found[2 * i], found[2 * i + 1]) for i in range(len(sizes))], bool)
    kept = np.full(len(sizes), True) if keep_all else usable & ~(longer & (too_long == "skip"))
    rows = [2 * i + side for i in np.flatnonzero(kept).tolist() for side in (0, 1)]
    cut = int((kept & longer).sum())
    return Pairs(one_a_row(found, block_size, rows), usable[kept].tolist(), cut, len(sizes) - int(kept.sum()))


def reference_state(data: Any) -> dict[str, Any]:
    """Return what the reference makes of a data module's pairs, for a checkpoint."""
    answers = data.val_parts["reference"].examples.drawn._asdict()
    return {"sha256": data.reference, "train": data.train.reference, "val": data.val.reference, "answers": answers}


def take_reference(data: Any, state: dict[str, Any]) -> None:
    """Give a data module's pairs what `reference_state` has returned; raises ValueError where it is of others."""
    for name, pairs in {"train": data.train, "val": data.val}.items():
        found, expected = state[name], pairs.reference
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"its reference is of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
        pairs.reference = found.clone()
    data.val_parts["reference"].examples.drawn = AnswerBatch(**{k: v.clone() for k, v in state["answers"].items()})
    data.reference = str(state["sha256"])


def _differ(chosen: tuple[Ints, Ints], rejected: tuple[Ints, Ints]) -> bool:
    """Tell whether two answers have targets, and not the same ones."""
    said = [y[y != IGNORE] for _, y in (chosen, rejected)]
    return bool(len(said[0]) and len(said[1]) and not np.array_equal(*said))
