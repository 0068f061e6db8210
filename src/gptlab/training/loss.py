"""The function that training differentiates: a task's loss, compiled and in low precision where that is asked for."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gptlab.model.gpt import GPT
from gptlab.tasks.base import Reading, Task


class Loss(nn.Module):
    """Compute a task's loss of a model at each target of a batch, in nats; zero where there is no target.

    With a `dtype` the model computes in it, by copies of its weights that are rounded for every pass; the weights
    themselves, their gradients and the optimizer's state stay in fp32 (master weights: Micikevicius et al. 2018).
    """

    _loss: "_TaskLoss"

    def __init__(self, task: Task, gpt: Any, reading: Reading | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        # the model is no submodule of this one: a checkpoint names each weight once
        object.__setattr__(self, "_loss", _TaskLoss(task, gpt, reading or Reading()))
        self.dtype = dtype

    @property
    def task(self) -> Task:
        return self._loss.task

    @property
    def gpt(self) -> GPT:
        return self._loss.gpt

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.dtype is None:
            return self._loss(x, y)
        rounded: dict[str, Any] = {name: p.to(self.dtype) for name, p in self._loss.named_parameters()}
        return functional_call(self._loss, rounded, (x, y))


class _TaskLoss(nn.Module):
    """Compute the same with the weights as they are."""

    def __init__(self, task: Task, gpt: Any, reading: Reading) -> None:
        super().__init__()
        self.task, self.gpt, self.reading = task, gpt, reading

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.task.losses(self.gpt, x, y, self.reading)
