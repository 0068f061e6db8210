"""Define the function that training differentiates: a task's loss, optionally compiled and in low precision."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gptlab.tasks.base import Figures, Reading, Task


class Loss(nn.Module):
    """A task's loss of a model at each target of a batch, in nats; zero where there is no target.

    With a `dtype` the model computes in it, by copies of its weights that are rounded for every pass; the weights
    themselves, their gradients and the optimizer's state stay in fp32 (master weights: Micikevicius et al. 2018).
    """

    figures: "_Figures"  # all figures of a batch by the task; the loss is one of them

    def __init__(self, task: Task, gpt: Any, reading: Reading | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        # the model is not a submodule: a checkpoint names each weight once
        object.__setattr__(self, "figures", _Figures(_TaskLosses(task, gpt, reading or Reading()), dtype))

    @property
    def task(self) -> Task:
        return self.figures.losses.task

    @property
    def gpt(self) -> Any:
        return self.figures.losses.gpt

    @property
    def reading(self) -> Reading:
        return self.figures.losses.reading

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the computation of the figures, which training and validation share."""
        self.figures.compile(*args, **kwargs)

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.figures(*tensors)["loss"]


class _Figures(nn.Module):
    """The figures of a batch, computed with rounded weights if there is a `dtype`."""

    losses: "_TaskLosses"

    def __init__(self, losses: "_TaskLosses", dtype: torch.dtype | None) -> None:
        super().__init__()
        object.__setattr__(self, "losses", losses)
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> Any:
        if self.dtype is None:
            return self.losses(*tensors)
        rounded: dict[str, Any] = {name: p.to(self.dtype) for name, p in self.losses.named_parameters()}
        return functional_call(self.losses, rounded, tensors)


class _TaskLosses(nn.Module):
    """The figures of a batch, computed with the weights as they are."""

    def __init__(self, task: Task, gpt: Any, reading: Reading) -> None:
        super().__init__()
        self.task, self.gpt, self.reading = task, gpt, reading

    def forward(self, *tensors: Tensor) -> Figures:
        return self.task.losses(self.gpt, *tensors, reading=self.reading)
