"""Let the processes of a run agree: on the time of a step, on when to stop, on what each of them has."""

from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """Agree with the other ranks on the CPU: nobody waits for a device."""

    def __init__(self) -> None:
        self._group: Any = None

    def any(self, flag: bool) -> bool:
        """Tell whether any process says so; all must ask at the same place."""
        return bool(self.max(flag))

    def max(self, value: float) -> float:
        """Return the largest value that any process has; all must ask at the same place."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return value
        self._group = self._group or dist.new_group(backend="gloo")
        said = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        return said.item()


def gather(mine: Any) -> list[Any]:
    """Return what every rank has, by rank."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
