"""What the processes of a run agree on."""

from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """Agreement on the CPU: nobody waits for a device."""

    def __init__(self) -> None:
        self._group: Any = None

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all must ask at the same place."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return flag
        self._group = self._group or dist.new_group(backend="gloo")
        said = torch.tensor([int(flag)])
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        return bool(said)
