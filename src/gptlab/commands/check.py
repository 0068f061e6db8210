"""The verb `check`."""

from typing import Any

from gptlab.registry import command
from gptlab.training.config import TrainConfig


@command(config="train")
def check(config: TrainConfig) -> dict[str, Any]:
    """Try out a config for a minute: does it train as it should?

    Takes what `train` takes, and runs the config's own model on its own data, on this machine.
    """
    from gptlab.commands.checks import run_checks

    return run_checks(config)
