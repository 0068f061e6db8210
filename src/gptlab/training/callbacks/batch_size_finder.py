"""Divide a global batch: sequences per forward pass of a device, and forward passes per step."""

import resource
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches.batch import tensors
from gptlab.errors import UserError
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.lightning_internals import all_agree, autocast, datamodule_of, device_of, set_accumulation
from gptlab.training.memory import is_out_of_memory
from gptlab.training.module import GPTModule


def micro_batches(
    batch_size: int, micro_batch_size: int | None, world_size: int, key: str = "data.batch_size"
) -> tuple[int, int]:
    """Return (sequences per forward pass, forward passes per step) of one device, for one global batch over all.

    Raises UserError, which names the `key` of the batch size, where it does not divide.
    """
    if micro_batch_size is None:
        if batch_size % world_size == 0:
            return batch_size // world_size, 1
        micro_batch_size = 1
    per_pass = micro_batch_size * world_size
    if batch_size % per_pass:
        below, above = batch_size // per_pass * per_pass, -(-batch_size // per_pass) * per_pass
        nearest = " or ".join(str(n) for n in (below, above) if n)
        raise UserError(
            key,
            batch_size,
            f"is not a multiple of {micro_batch_size} sequences on each of {world_size} device(s)",
            f"choose {nearest}",
        )
    return micro_batch_size, batch_size // per_pass


def micro_batch(sizes: BatchSizes, asked: int | None, world_size: int) -> int:
    """Return the sequences per forward pass of one device, by which every step divides; raises UserError."""
    size = micro_batches(sizes.common if asked is None else sizes.first, asked, world_size)[0]
    for stage in sizes.stages:
        micro_batches(stage.size, size, world_size, "schedule.batch" if stage.step else "data.batch_size")
    return size


class BatchSizeFinder(Callback):
    """A search for the largest micro-batch size that fits in memory, for `data.micro_batch_size=auto`.

    Before training starts it tries one forward and backward pass of each size that divides a device's share of the
    batch, from 1 up, until memory is short, and takes the largest that fitted on all devices.
    """

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        assert isinstance(pl_module, GPTModule)
        data = datamodule_of(trainer)
        share, largest = micro_batch(data.batch_sizes, None, trainer.world_size), 1
        pl_module.gpt.to(device_of(trainer))
        peaks: list[tuple[int, int]] = []
        # what the optimizer will hold
        held = [torch.zeros_like(p) for p in pl_module.gpt.parameters() for _ in range(2)]
        for size in (n for n in range(1, share + 1) if share % n == 0):
            fits = promises(peaks, size) and tries(trainer, pl_module, data.largest_batch(size))
            if not all_agree(trainer, fits):
                break
            peaks.append((size, peak_memory()))
            largest = size
        del held
        if device_of(trainer).type == "cuda":
            torch.cuda.empty_cache()
        use_micro_batches(trainer, data, largest)
        self.bar.console.print(f"{largest} of {share} sequences a forward pass fit", highlight=False)


def use_micro_batches(trainer: L.Trainer, data: Any, micro_batch_size: int) -> None:
    """Tell the trainer and the data module how the first global batch is divided."""
    _, parts = micro_batches(data.batch_sizes.first, micro_batch_size, trainer.world_size)
    set_accumulation(trainer, parts)
    data.micro_batch_size = micro_batch_size


def tries(trainer: L.Trainer, module: GPTModule, batch: Any) -> bool:
    """Tell whether one forward and backward pass of a batch goes through."""
    module.gpt.train()
    try:
        moved = [each.to(device_of(trainer)) for each in tensors(batch)]
        with autocast(trainer):
            loss = module.loss(*moved).sum()
        loss.backward()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        module.gpt.zero_grad(set_to_none=True)
    return True


def promises(peaks: list[tuple[int, int]], size: int) -> bool:
    """Return whether `size` is expected to fit, by a straight line through the peaks (size, bytes) so far.

    A CPU does not refuse memory: the process would be killed.
    """
    if torch.cuda.is_available() or len(peaks) < 2:
        return True
    (a, low), (b, high) = peaks[-2:]
    expected = high + (high - low) * (size - b) / (b - a)
    return expected - memory() <= 0.9 * free_memory()


def peak_memory() -> int:
    """Return the most memory this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory() -> int:
    """Return the memory of this process now, in bytes."""
    return _kilobytes("/proc/self/status", "VmRSS", 0) * 1024


def free_memory() -> int:
    """Return the free memory of the machine, in bytes; if it is not known, a number larger than any need."""
    return _kilobytes("/proc/meminfo", "MemAvailable", 1 << 50) * 1024


def _kilobytes(path: str, key: str, otherwise: int) -> int:
    try:
        with open(path) as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key))
    except (OSError, StopIteration):
        return otherwise
