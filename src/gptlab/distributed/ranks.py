"""What the processes of a run agree on (config, time of a step, when to stop), and what they hold together."""

import hashlib
import json
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from gptlab.errors import UserError
from gptlab.runs.config_file import flat


class Ranks:
    """Agreement on the CPU: nobody waits for a device."""

    def __init__(self) -> None:
        self._group: Any = None

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all must ask at the same place."""
        return bool(self.max(flag))

    def max(self, value: float) -> float:
        """The largest that any process has; all must ask at the same place."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return value
        self._group = self._group or dist.new_group(backend="gloo")
        said = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        return said.item()


class SameConfig(Callback):
    """Every rank sends the hash of its config to every other; if one has another, all refuse to go on, by name."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = {key: str(value) for key, value in flat(config).items()}
        self.sha256 = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or len(set(_gather(self.sha256))) == 1:
            return
        first, *others = _gather(self.config)
        rank, other = next((i, other) for i, other in enumerate(others, 1) if other != first)
        key = next(key for key in [*first, *other] if first.get(key) != other.get(key))
        why = f"on rank {rank}, but {first.get(key)} on rank 0"
        raise UserError(key, other.get(key), why, "start all ranks from one saved config")


def whole(tensor: Any) -> Tensor:
    """Of all ranks, if each has a part of it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _gather(mine: Any) -> list[Any]:
    """What every rank has."""
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
