"""Refuse to train if the ranks of a run have different configs."""

import hashlib
import json
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from gptlab.distributed.ranks import gather
from gptlab.errors import UserError
from gptlab.runs.config_file import flat


class ConfigCheck(Callback):
    """A comparison of every rank's config by hash; if one differs, all ranks stop, naming the key."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = {key: str(value) for key, value in flat(config).items()}
        self.sha256 = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or len(set(gather(self.sha256))) == 1:
            return
        first, *others = gather(self.config)
        rank, other = next((i, other) for i, other in enumerate(others, 1) if other != first)
        key = next(key for key in [*first, *other] if first.get(key) != other.get(key))
        why = f"on rank {rank}, but {first.get(key)} on rank 0"
        raise UserError(key, other.get(key), why, "start all ranks from one saved config")
