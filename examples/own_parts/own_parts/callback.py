"""A callback: Lightning calls it in training; a dataclass says how it is built."""

from dataclasses import dataclass
from typing import Any

import gptlab


@gptlab.option("callback", "weight_size")
@dataclass
class WeightSize:
    """Log the root mean square of all weights at each validation, as weights/rms."""

    def build(self) -> Any:
        from lightning.pytorch.callbacks import Callback

        class LogWeightSize(Callback):
            def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
                squares = sum(float(p.detach().square().sum()) for p in pl_module.gpt.parameters())
                numbers = sum(p.numel() for p in pl_module.gpt.parameters())
                for logger in trainer.loggers:
                    logger.log_metrics({"weights/rms": (squares / numbers) ** 0.5}, step=trainer.global_step)

        return LogWeightSize()
