"""Measure training speed: tokens per second, model FLOPs utilization, and time spent waiting for data."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from gptlab.training.callbacks.step_timer import wait_for_device
from gptlab.training.module import GPTModule


class ThroughputMonitor(Callback):
    """Training tokens per second of training time: validation, samples and checkpoints of others do not count; model
    FLOPs utilization (Chowdhery et al. 2022); and the share of that time in which the loop waited for data. With them
    the module logs what else it knows of training."""

    def __init__(self, tokens_per_step: int, waited: Callable[[], float] = lambda: 0.0) -> None:
        self.tokens_per_step, self.waited = tokens_per_step, waited  # waited: seconds for data so far
        self.share_per_token = 0.0  # of the FLOPs that all devices could do in a second
        self.seconds = 0.0  # in training so far
        self.steps = 0
        self._since = (0.0, 0, 0.0)  # (seconds, steps, seconds waited) at the last log
        self._resumed = 0.0
        self._began, self._earlier = time.perf_counter(), 0.0  # this start of the run; seconds of the ones before

    @property
    def tokens_per_second(self) -> float:
        return self.steps * self.tokens_per_step / self.seconds if self.seconds else 0.0

    @property
    def all_seconds(self) -> float:
        """Of the whole run, whatever they went into; without what came after the checkpoint from which it goes on."""
        return self._earlier + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "steps": self.steps, "all_seconds": self.all_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.steps = state_dict["seconds"], state_dict["steps"]
        self._earlier = state_dict.get("all_seconds", self.seconds)  # older checkpoints have none
        self._since = (self.seconds, self.steps, self.waited())

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._began = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GPTModule)
        logs = pl_module.logs_after(batch_idx)
        if logs:
            wait_for_device(pl_module.device)
        now = time.perf_counter()
        self.seconds += now - self._resumed
        self._resumed, self.steps = now, trainer.global_step
        if logs:
            seconds, steps, waited = self._since
            tokens, passed = (self.steps - steps) * self.tokens_per_step, self.seconds - seconds
            speed = tokens / passed
            figures = {"train/tokens_per_second": speed, "train/mfu": speed * self.share_per_token}
            pl_module.log_training(figures | {"train/data_wait": (self.waited() - waited) / passed})
            self._since = (self.seconds, self.steps, self.waited())

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._resumed = time.perf_counter()
