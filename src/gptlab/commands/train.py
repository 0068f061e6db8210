"""The verb `train`."""

from typing import Any

from gptlab.registry import command
from gptlab.training.config import TrainConfig


@command
def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a model; everything about it lands in one run directory."""
    from gptlab.training.run import train

    return train(config)
