"""Time a step before the first one, so that the number of steps of `budget.minutes` is known."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from gptlab.data.batches.batch import Batch
from gptlab.distributed.ranks import Ranks
from gptlab.planning.limits import wait_for_device
from gptlab.training.budget import Plan
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.lightning_internals import backward, datamodule_of, device_of, same_random_numbers, set_steps
from gptlab.training.module import GPTModule

WARM_UP = 3  # steps, of which the first includes compilation
PILOT = 3
LEAST, SECONDS = 20, 3.0  # time at least LEAST steps and at least SECONDS,
MOST = 30.0  # but at most MOST seconds, unless PILOT steps take longer


class StepTimer(Callback):
    """A timer of steps on the run's first batches, which are undone afterwards.

    Weights, optimizer, random numbers and the order of the data are as before. All ranks take the time of the slowest;
    `found` turns it into a plan.
    """

    def __init__(self, found: Callable[[float, bool], Plan], resumed: int, ranks: Ranks, bar: ProgressBar) -> None:
        self.found, self.resumed, self.ranks, self.bar = found, resumed, ranks, bar

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Time steps now: the model is on its devices, sharded or in DDP, with at most the weights of a checkpoint."""
        assert isinstance(pl_module, GPTModule)
        with self.bar.doing("timing steps"):
            plan = self.found(self.seconds_per_step(trainer, pl_module), trainer.is_global_zero)
        self.bar.console.print(f"timed: {plan}", highlight=False, soft_wrap=True)
        take(trainer, pl_module, max(plan.steps, self.resumed))

    def seconds_per_step(self, trainer: L.Trainer, module: GPTModule) -> float:
        """Time some steps and undo them; return the seconds of one, the same number on all ranks."""
        optimizer = trainer.optimizers[0]
        weights = [_local(p) for p in module.gpt.parameters()]
        before = [weight.to("cpu", copy=True) for weight in weights]
        data = datamodule_of(trainer)
        data.steps = 1 << 32  # practically endless
        module.gpt.train()
        with same_random_numbers():
            batches = iter(data.train_dataloader())
            self._time(trainer, module, batches, WARM_UP)
            each = self.ranks.max(self._time(trainer, module, batches, PILOT))
            steps = max(PILOT, min(max(LEAST, round(SECONDS / each)), round(MOST / each)))
            each = self.ranks.max(self._time(trainer, module, batches, steps))
            batches.close()
        for weight, value in zip(weights, before, strict=True):
            weight.copy_(value)
        optimizer.state.clear()  # it was empty; a checkpoint's is loaded later
        module.forget()
        if device_of(trainer).type == "cuda":
            torch.cuda.empty_cache()
        return each

    def _time(self, trainer: L.Trainer, module: GPTModule, batches: Iterator[Batch], steps: int) -> float:
        """Return the seconds that a step takes."""
        optimizer, device = trainer.optimizers[0], device_of(trainer)
        wait_for_device(device)
        start = time.perf_counter()
        for _ in range(steps):
            for part in reversed(range(trainer.accumulate_grad_batches)):
                backward(trainer, next(batches), last=part == 0)
            module.clip(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait_for_device(device)
        return (time.perf_counter() - start) / steps


def take(trainer: L.Trainer, module: GPTModule, steps: int) -> None:
    """Tell trainer, data module and module the number of steps of the run."""
    set_steps(trainer, steps)
    datamodule_of(trainer).steps = module.steps = steps


def _local(p: Any) -> torch.Tensor:
    """Return this rank's part of a weight, outside of autograd."""
    return (p.to_local() if hasattr(p, "to_local") else p).detach()
