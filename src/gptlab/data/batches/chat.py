"""Turn encoded conversations into examples: one a row, or several in a row that do not see each other."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.order import Ints
from gptlab.errors import require


class PackedBatch(NamedTuple):
    """Rows of several conversations each, with the number of the conversation at each position."""

    x: Tensor  # (B, T) int64
    y: Tensor  # (B, T) int64; IGNORE where none counts
    documents: Tensor  # (B, T) int64, 0, 1, ...; padding has a number of its own
    step_targets: int | None = None
    step_tokens: int | None = None


@dataclass
class Conversations:
    """Encoded conversations as ids and targets, all in one array each: that of number i is at starts[i] : starts[i+1].

    `cut` counts those that did not fit and were cut at their end, `skipped` those that are left out.
    """

    x: Ints
    y: Ints
    starts: Ints
    cut: int = 0
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> tuple[Ints, Ints]:
        where = slice(int(self.starts[i]), int(self.starts[i + 1]))
        return self.x[where], self.y[where]


def conversations(
    encoded: Sequence[tuple[Sequence[int], Sequence[bool]]], block_size: int, too_long: str, keep_all: bool
) -> Conversations:
    """Return conversations, each given by its ids and by which of them count, as ids and their targets.

    One of more than block_size targets is cut at its end, left out (`skip`), or refused. One without a target that is
    left is left out too, unless `keep_all`. Raises UserError.
    """
    xs, ys, lengths, cut, skipped = [], [], [0], 0, 0
    for number, (ids, counts) in enumerate(encoded, 1):
        longer = len(ids) > block_size + 1
        why = f"has {len(ids):,} tokens, and a row has room for {block_size + 1:,}"
        todo = "shorten it, raise model.block_size, or task.too_long=cut"
        require(not longer or too_long != "refuse", "data", f"example {number}", why, todo)
        row = np.array(ids[: block_size + 1], np.int64)
        target = np.where(np.array(counts[: block_size + 1], bool), row, IGNORE)[1:]
        if not keep_all and ((longer and too_long == "skip") or not (target != IGNORE).any()):
            skipped += 1
            continue
        cut += longer
        xs.append(row[:-1])
        ys.append(target)
        lengths.append(len(target))
    empty = [np.zeros(0, np.int64)]
    return Conversations(np.concatenate(xs or empty), np.concatenate(ys or empty), np.cumsum(lengths), cut, skipped)


class Rows:
    """The examples of fine-tuning: each a row of one or several conversations, in the order in which they are there.

    With `packed` the number of a conversation is part of a batch, and none attends to another.
    """

    def __init__(self, found: Conversations, rows: Sequence[Sequence[int]], block_size: int, packed: bool) -> None:
        self.found, self.rows, self.block_size, self.packed = found, rows, block_size, packed
        sizes = np.diff(found.starts)
        counted = np.add.reduceat(np.append(found.y != IGNORE, 0), found.starts[:-1]) if len(found) else sizes
        counted = np.where(sizes > 0, counted, 0)
        self.lengths: Ints = np.array([sum(int(sizes[i]) for i in row) for row in rows], np.int64)
        self.targets: Ints = np.array([sum(int(counted[i]) for i in row) for row in rows], np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch | PackedBatch:
        """Return rows as a batch, padded at their ends to the longest; one past the end is empty."""
        asked = [self.rows[i] if i < len(self) else [] for i in indices]
        width = max([1, *(int(self.lengths[i]) for i in indices if i < len(self))])
        x = np.zeros((len(asked), width), np.int64)
        y = np.full((len(asked), width), IGNORE, np.int64)
        documents = np.zeros((len(asked), width), np.int64)
        for row, members in enumerate(asked):
            at = 0
            for number, i in enumerate(members):
                ids, targets = self.found[i]
                end = at + len(ids)
                x[row, at:end], y[row, at:end], documents[row, at:end] = ids, targets, number
                at = end
            documents[row, at:] = len(members)
        if not self.packed:
            return Batch(torch.from_numpy(x), torch.from_numpy(y))
        return PackedBatch(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(documents))

    def describe(self) -> str:
        """Return how full packed rows are, and how many conversations were cut or left out."""
        said = []
        if self.packed and len(self):
            fill = self.lengths.sum() / (len(self) * self.block_size)
            said.append(f"{len(self.found):,} conversations packed, {fill:.1%} full")
        said += [f"{self.found.cut:,} cut at their end"] if self.found.cut else []
        said += [f"{self.found.skipped:,} left out: too long, or no target"] if self.found.skipped else []
        return ", ".join(said)


def one_a_row(found: Conversations, block_size: int, numbers: Sequence[int] | None = None) -> Rows:
    """Return each conversation as an example, or those of some numbers."""
    return Rows(found, [[i] for i in (range(len(found)) if numbers is None else numbers)], block_size, packed=False)


def packed(found: Conversations, block_size: int) -> Rows:
    """Return rows of whole conversations: the longest first, each where it fits best (best-fit decreasing)."""
    sizes = np.diff(found.starts)
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free positions, row) of rows that are not full, sorted
    for i in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[i])
        at = bisect.bisect_left(room, (size, 0))
        if at < len(room):
            free, row = room.pop(at)
            rows[row].append(i)
        else:
            free, row = block_size, len(rows)
            rows.append([i])
        if free > size:
            bisect.insort(room, (free - size, row))
    return Rows(found, [sorted(row) for row in rows], block_size, packed=True)
