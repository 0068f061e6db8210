"""The verb `check`."""

from typing import Any

from gptlab.registry import command
from gptlab.training.config import TrainConfig


@command(config="train")
def check(config: TrainConfig) -> dict[str, Any]:
    """Check in about a minute whether a config trains as it should.

    Takes the config of `train`, and runs its own model on its own data, on this machine. Raises RunFailed if a check
    fails.
    """
    from gptlab.training.preflight import require_possible

    require_possible(config)

    from gptlab.commands.checks import run_checks

    return run_checks(config)
