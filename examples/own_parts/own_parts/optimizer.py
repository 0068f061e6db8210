"""An optimizer: settings that build a torch optimizer for a model."""

from dataclasses import dataclass

import gptlab
from gptlab.optim.optimizers import AdamW


@gptlab.option("optimizer", "slow_adamw")
@dataclass
class SlowAdamW(AdamW):
    """Use AdamW with a long memory."""

    lr: float = 1e-3
    beta1: float = 0.95
    beta2: float = 0.999
