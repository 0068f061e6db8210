"""Let the processes of a run agree on the time of a step, on when to stop, and on the values that each has."""

from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """A channel on the CPU by which ranks agree, so that no rank waits for a device."""

    def __init__(self) -> None:
        self._group: Any = None

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; all must call this at the same point."""
        return bool(self.max(flag))

    def max(self, value: float) -> float:
        """Return the largest value of any process; all must call this at the same point."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return value
        self._group = self._group or dist.new_group(backend="gloo")
        said = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        return said.item()


def gather(mine: Any) -> list[Any]:
    """Return a list of every rank's value, in the order of ranks."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
