"""Read the critical batch size off branches of a run: up to it a larger batch costs no more data for the same loss.

From a checkpoint the run goes on with several sizes of batch, each for the same data, with a learning rate that grows
as the root of the size (Merrill et al. 2025, "Critical Batch Size Revisited"). No noise of gradients is estimated.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Branches:
    """The branches off one checkpoint: the held-out loss of each size, by sequences in a batch."""

    step: int
    position: int  # sequences that the run had read by then
    losses: dict[int, float]  # in nats per target; the smallest size is the run's own

    @property
    def own(self) -> int:
        """The size of batch that the run had there."""
        return min(self.losses)

    def critical(self, tolerance: float) -> int:
        """Return the largest size up to which no loss exceeds that of the run's own size by more than `tolerance`."""
        found = self.own
        for size in sorted(self.losses):
            if not self.losses[size] <= self.losses[self.own] + tolerance:  # a loss that is not a number, too
                break
            found = size
        return found

    def beyond(self, tolerance: float) -> bool:
        """Tell whether the critical size may be larger than all that were tried."""
        return self.critical(tolerance) == max(self.losses)


def schedule_of(every: Sequence[Branches], tolerance: float) -> list[list[int]]:
    """Return changes of the batch as `schedule.batch` takes them: from each checkpoint on its critical size.

    A batch that has grown stays: later checkpoints with a smaller critical size change nothing.
    """
    found: list[list[int]] = []
    for each in sorted(every, key=lambda each: each.position):
        size, before = each.critical(tolerance), found[-1][1] if found else each.own
        if size > before:
            found.append([each.position, size])
    return found
