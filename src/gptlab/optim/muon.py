"""Run Muon and AdamW as one optimizer: steepest descent under the spectral norm for matrices (Jordan et al. 2024)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from gptlab.bf16 import has_instructions

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose slope at 0 is the steepest


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move all singular values of each matrix of (N, A, B) to between 0.7 and 1.2 (Newton-Schulz).

    It is done in bf16, but in fp32 on a CPU that has no instructions for bf16.
    """
    a, b, c = COEFFICIENTS
    emulated = matrices.device.type == "cpu" and has_instructions() is False
    x = matrices.float() if emulated else matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonOptimizer(Optimizer):
    """An optimizer of the matrices in a group by Muon and of the parameters in `adamw` by AdamW.

    The group has `params`, `lr`, `momentum` and `weight_decay`. Both have common groups and state.
    """

    def __init__(self, matrices: dict[str, Any], adamw: AdamW) -> None:
        self.adamw = adamw
        super().__init__([matrices], {})
        self.param_groups += adamw.param_groups
        self._share()

    def _share(self) -> None:
        """Let AdamW use the same groups and the same state."""
        self.adamw.param_groups = self.param_groups[1:]
        self.adamw.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                by_shape.setdefault(p.shape, []).append(p)
        for same in by_shape.values():
            self._step(same, group["lr"], group["momentum"], group["weight_decay"])
        self.adamw.step()
        return loss

    def _step(self, same: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Update all matrices of one shape at once."""
        gradients = [p.grad for p in same if p.grad is not None]
        buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in same]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch.stack(torch._foreach_lerp(gradients, buffers, momentum))  # Nesterov
        updates = orthogonalize(ahead).to(same[0].dtype).unbind()
        torch._foreach_mul_(same, 1 - lr * weight_decay)
        torch._foreach_add_(same, updates, alpha=-lr * 0.2 * max(same[0].shape) ** 0.5)
