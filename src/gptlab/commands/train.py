"""The verb `train`; torch is imported when nothing is left that is wrong without it."""

from typing import Any

from gptlab.registry import command
from gptlab.training.config import TrainConfig


@command
def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a model; everything about the run is written into one run directory."""
    from gptlab.training.preflight import require_possible

    require_possible(config)

    from gptlab.training.run import train

    return train(config)
