"""Find the memory that a planned run takes on each device, and the nearest change that fits where it is too much."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from gptlab.errors import UserError
from gptlab.model.adapters import LoRA
from gptlab.model.gpt import num_weights
from gptlab.planning.memory import StepMemory
from gptlab.training.config import TrainConfig
from gptlab.training.random_step import memory_of, model_without_memory


def memory_of_plan(
    config: TrainConfig, micro_batch: int, micro_batches: int, devices: int, device_bytes: float
) -> dict[str, Any]:
    """Return the bytes by part, the peak for each way of training, whether it fits, and the change that makes it so."""
    ways = _Ways(config, micro_batch, micro_batches, devices)
    trainer = config.trainer
    as_asked = ways.memory(config, micro_batch)
    by_way = {
        "activation_checkpointing": ways.bytes(ways.recomputing(True), micro_batch),
        "no_activation_checkpointing": ways.bytes(ways.recomputing(False), micro_batch),
    }
    if config.adapter is None:
        spread = max(devices, 8)
        by_way[f"fsdp_{spread}"] = as_asked.sharded(spread, ways.gathered)
        by_way["lora"] = ways.bytes(ways.lora(config), micro_batch)
    asked = ways.bytes(config, micro_batch)
    fits = asked <= device_bytes
    change = None if fits else next(ways.that_fit(device_bytes), None)
    parts = {key: value for key, value in dataclasses.asdict(as_asked).items() if key not in ("forward", "backward")}
    if trainer.sharded:
        parts |= {key: -(-parts[key] // devices) for key in ("weights", "gradients", "optimizer")}
        parts["gathered"] = ways.gathered
    return {
        "micro_batch_size": micro_batch,
        "memory_bytes": asked,
        "memory": parts | ({"buckets": as_asked.gradients} if ways.is_ddp(config) else {}),
        "memory_by_way": by_way,
        "device_bytes": int(device_bytes),
        "fits": fits,
        "change": change,
    }


def whole_for_a_time(model: Any) -> int:
    """Return the bytes that FSDP gathers: two blocks' weights and a block's gradients, and those outside of blocks."""
    blocks = [num_weights(block) for block in getattr(model, "blocks", ())]
    rest = num_weights(model) - sum(blocks)
    return 4 * (2 * rest + 3 * max(blocks, default=0))


class _Ways:
    """The ways to train the same model, each counted once."""

    def __init__(self, config: TrainConfig, micro_batch: int, micro_batches: int, devices: int) -> None:
        self.config, self.micro_batch, self.micro_batches, self.devices = config, micro_batch, micro_batches, devices
        self.counted: list[tuple[TrainConfig, int, StepMemory]] = []
        self.gathered = whole_for_a_time(model_without_memory(dataclasses.replace(config, adapter=None)))

    def memory(self, config: TrainConfig, micro_batch: int) -> StepMemory:
        """Return the bytes of a step by part."""
        for other, size, found in self.counted:
            if other == config and size == micro_batch:
                return found
        several = self.micro_batches > 1 or micro_batch < self.micro_batch
        self.counted.append((config, micro_batch, memory_of(config, micro_batch, several)))
        return self.counted[-1][2]

    def bytes(self, config: TrainConfig, micro_batch: int) -> int:
        """Return the peak on each device; DDP sums gradients in buckets of its own."""
        found = self.memory(config, micro_batch)
        averages = found.gradients if config.ema is not None or config.tail_average is not None else 0
        if config.trainer.sharded:
            return found.sharded(self.devices, self.gathered)
        return found.peak + averages + (found.gradients if self.is_ddp(config) else 0)

    def is_ddp(self, config: TrainConfig) -> bool:
        """Tell whether gradients are summed over several devices, of which each has all weights."""
        return self.devices > 1 and not config.trainer.sharded

    def recomputing(self, value: bool) -> TrainConfig:
        """Return the config with or without recomputation in the backward pass."""
        trainer = dataclasses.replace(self.config.trainer, activation_checkpointing=value)
        return dataclasses.replace(self.config, trainer=trainer)

    def lora(self, config: TrainConfig) -> TrainConfig:
        """Return the config with LoRA, and with frozen weights in bf16."""
        trainer = dataclasses.replace(config.trainer, precision="bf16-true")
        return dataclasses.replace(config, trainer=trainer, adapter=LoRA())

    def that_fit(self, most: float) -> Iterator[str]:
        """Yield the changes that fit into `most` bytes, the nearest first."""
        smaller = [self.micro_batch // 2**n for n in range(1, self.micro_batch.bit_length())]
        smaller = [n for n in smaller if self.config.batch_sizes.common % (n * self.devices) == 0]
        recomputes = "trainer.activation_checkpointing=true"
        for config, more in ((self.config, ""), (self.recomputing(True), recomputes)):
            sizes = [*([self.micro_batch] if more else []), *smaller]
            if sizes and self.bytes(config, sizes[-1]) <= most:
                size = next(n for n in sizes if self.bytes(config, n) <= most)
                less = "" if size == self.micro_batch else f"data.micro_batch_size={size}"
                yield f"{less} {more}".strip()
        least = [self.micro_batch, *smaller][-1]
        more = f"{recomputes} data.micro_batch_size={least}"
        if devices := self.devices_that_fit(least, most):
            yield f"trainer=fsdp trainer.devices={devices} {more}"
        if self.config.adapter is None and self.bytes(self.lora(self.recomputing(True)), least) <= most:
            yield f"adapter=lora trainer.precision=bf16-true {more}"

    def devices_that_fit(self, micro_batch: int, most: float) -> int | None:
        """Return the number of devices over which weights that are recomputed with have to be spread; None: none."""
        config = self.recomputing(True)
        try:
            dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, strategy="fsdp"))
        except UserError:  # such as of optimizer.hyperball=true
            return None
        found, devices = self.memory(config, micro_batch), max(2, self.devices)
        while config.batch_sizes.common % (devices * micro_batch) == 0:
            if found.sharded(devices, self.gathered) <= most:
                return devices
            devices *= 2
        return None
