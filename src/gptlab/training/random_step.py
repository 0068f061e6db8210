"""Make a training step of random tokens by a run's config, to count its memory or to time it; no data are read."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.distributed.devices import may_be_gpu
from gptlab.model.adapters import adapt
from gptlab.model.config import GPTConfig, build_model
from gptlab.model.heads import trunk_of
from gptlab.model.meta_device import on_meta
from gptlab.planning.memory import StepMemory, step_memory, without_numbers
from gptlab.tasks.base import Reading
from gptlab.training.adapted import freeze_in
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.peak_flops import peak_flops
from gptlab.training.precision import compute_dtype, require_precision

WARM = 1  # steps before any is timed
DEPTH = 4  # layers


@dataclass
class RandomStep:
    """A model and the loss of one micro-batch of `micro_batch` sequences of random tokens."""

    config: TrainConfig
    micro_batch: int
    device: torch.device

    def __post_init__(self) -> None:
        config = self.config
        dtype = compute_dtype(config.trainer.precision)
        with self.device:
            self.model: Any = config.task.head(build_model(config.model))
        trunk: Any = trunk_of(self.model)
        trunk.recompute = config.trainer.activation_checkpointing
        if config.adapter is not None:
            adapt(self.model, config.adapter)
            if dtype:
                freeze_in(self.model, dtype)
        separator = 0 if getattr(config.data, "mask_documents", False) else None
        reading = Reading(separator, config.loss == "chunked")
        self.loss = Loss(config.task, self.model, reading, None if config.trainer.sharded else dtype)
        shape = (2, self.micro_batch, config.model.block_size)
        self.x, self.y = torch.randint(config.model.vocab_size, shape, device=self.device)

    def forward(self) -> Tensor:
        """Return the mean loss of the micro-batch, as the trainer's precision computes it."""
        mixed = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.config.trainer.precision)
        with torch.autocast(self.device.type, mixed, enabled=mixed is not None):
            return self.loss(self.x, self.y).sum() / self.y.numel()

    def optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimizer of the model."""
        return self.config.optimizer.build(self.model)

    def seconds(self, micro_batches: int, steps: int = 3) -> float:
        """Return the median seconds of some steps of so many micro-batches."""
        optimizer, clip = self.optimizer(), self.config.trainer.gradient_clip_val
        params = [p for p in self.model.parameters() if p.requires_grad]
        times = []
        for _ in range(WARM + steps):
            start = time.perf_counter()
            for _ in range(micro_batches):
                self.forward().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(params, clip or float("inf")).item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter() - start)
        return statistics.median(times[WARM:])


def memory_of(config: TrainConfig, micro_batch: int, several: bool) -> StepMemory:
    """Return the bytes of a step on one device, of one micro-batch or several; nothing is computed.

    A deep GPT is counted at two depths: all of its layers are alike.
    """
    model = config.model
    alike = config.adapter is None or not getattr(config.adapter, "layers", ["some"])
    if not isinstance(model, GPTConfig) or model.n_layer <= 2 * DEPTH or not alike:
        return _counted(config, micro_batch, several)
    less, more = (
        _counted(dataclasses.replace(config, model=_with_layers(model, n)), micro_batch, several)
        for n in (DEPTH, 2 * DEPTH)
    )
    return less.deeper(more, (model.n_layer - DEPTH) / DEPTH)


def model_without_memory(config: TrainConfig) -> Any:
    """Return the model of a config with its adapter, whose weights have shapes and no numbers."""
    with on_meta():
        model = config.task.head(build_model(config.model))
    if config.adapter is not None:
        adapt(model, config.adapter)
    return model


def _counted(config: TrainConfig, micro_batch: int, several: bool) -> StepMemory:
    with without_numbers():
        step = RandomStep(config, micro_batch, torch.device("cpu"))
        return step_memory(step.model, step.forward, step.optimizer, config.model.vocab_size, several)


def _with_layers(model: GPTConfig, layers: int) -> GPTConfig:
    within = model.window_layers and [layer for layer in model.window_layers if layer < layers]
    return dataclasses.replace(model, n_layer=layers, window_layers=within)


def measured_mfu(config: TrainConfig, micro_batch: int, micro_batches: int, flops_per_token: int) -> float:
    """Return the share of this machine's peak operations a second that a few steps of random tokens reach here."""
    asked = config.trainer.accelerator
    on_gpu = torch.cuda.is_available() and may_be_gpu(asked)
    device = torch.device("cuda" if on_gpu else "cpu")
    require_precision(config.trainer.precision, device)
    seconds = RandomStep(config, micro_batch, device).seconds(micro_batches)
    tokens = micro_batch * micro_batches * config.model.block_size
    peak = peak_flops(device, bf16="bf16" in config.trainer.precision).flops
    return flops_per_token * tokens / seconds / peak
