"""Give the number of sequences of each step: a function of the step, by the place in the order of the data."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

MOST = 1 << 24  # sequences in a batch: the order of a few batches is in memory at once


class Stage(NamedTuple):
    """Some steps in a row that have the same number of sequences."""

    step: int  # the first of them, counted from 0
    position: int  # of its first sequence in the order of the data
    size: int  # sequences of each step


@dataclass(frozen=True)
class BatchSizes:
    """The sizes of all steps: `first` sequences, and what `changes` say, each a place in the data and a size.

    A change [P, B] holds from the first step on that begins with sequence P of the order, counted from 0, or behind
    it. So a change leaves all steps before it as they are, however many devices compute them.
    """

    first: int
    changes: Sequence[Sequence[int]] = ()

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages, of which the last one goes on without end."""
        found = [Stage(0, 0, self.first)]
        for position, size in self.changes:
            last = found[-1]
            steps = max(0, -(-(position - last.position) // last.size))
            found.append(Stage(last.step + steps, last.position + steps * last.size, size))
        return [each for each, after in pairwise(found) if after.step > each.step] + found[-1:]

    @property
    def constant(self) -> bool:
        """True if all steps have the same size."""
        return len(self.stages) == 1

    @property
    def common(self) -> int:
        """The largest number of sequences that divides every step."""
        return math.gcd(*(stage.size for stage in self.stages))

    def size(self, step: int) -> int:
        """Return the sequences of a step, counted from 0."""
        return self._stage(step).size

    def start(self, step: int) -> int:
        """Return the position of a step's first sequence, which is the number of sequences of all steps before it."""
        stage = self._stage(step)
        return stage.position + (step - stage.step) * stage.size

    def steps(self, sequences: float) -> int:
        """Return the number of whole steps, at least one, that is nearest to a number of sequences."""
        number = bisect_right(self.stages, sequences, key=lambda stage: stage.position) - 1
        stage, after = self.stages[number], self.stages[number + 1 : number + 2]
        found = stage.step + round((sequences - stage.position) / stage.size)
        return max(1, min([found, *(each.step for each in after)]))

    def __str__(self) -> str:
        later = ", ".join(f"from sequence {stage.position:,} on {stage.size}" for stage in self.stages[1:])
        return f"{self.stages[0].size}{f' ({later})' if later else ''}"

    def _stage(self, step: int) -> Stage:
        return self.stages[bisect_right(self.stages, step, key=lambda stage: stage.step) - 1]


def orderly(changes: Any) -> bool:
    """Tell whether something is a list of changes [position, size] in their order, of whole numbers from 1 up."""
    if not isinstance(changes, list) or not all(isinstance(each, list) and len(each) == 2 for each in changes):
        return False
    if not all(type(value) is int and value >= 1 for each in changes for value in each):
        return False
    return all(size <= MOST for _, size in changes) and all(a[0] < b[0] for a, b in pairwise(changes))
