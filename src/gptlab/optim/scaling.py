"""Find the parameters of a model that have rates of their own by its parametrization, and hold the norms of matrices.

muP: Yang et al. 2022, Tensor Programs V, table 8; CompleteP: Dey et al. 2025, table 1, with alpha = 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gptlab.errors import require
from gptlab.registry import name_of, options


@dataclass(frozen=True)
class Ratios:
    """The sizes of a model over those of its base; 1 where its parametrization does not ask for them."""

    width: float = 1.0
    depth: float = 1.0

    def __bool__(self) -> bool:
        return (self.width, self.depth) != (1, 1)


def ratios_of(gpt: nn.Module) -> Ratios:
    """Return the ratios of a model, or of the one in the head of a task; 1 for a model that has no such settings."""
    config = getattr(gpt, "config", None)
    return Ratios(getattr(config, "width_ratio", 1.0), getattr(config, "depth_ratio", 1.0))


def require_rule(optimizer: Any, gpt: nn.Module) -> None:
    """Refuse a model whose parametrization says nothing about the rates of an optimizer, given by its config."""
    asked = getattr(getattr(gpt, "config", None), "parametrization", "standard")
    known = sorted(name for name, part in options("optimizer").items() if _has_rule(part))
    why = f"has no rule for its rates with model.parametrization={asked}"
    fits = asked == "standard" or _has_rule(optimizer)
    require(fits, "optimizer", name_of(optimizer), why, f"choose one of {', '.join(known)}")


def _has_rule(optimizer: Any) -> bool:
    return getattr(optimizer, "width_power", None) is not None


def blocks_of(gpt: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model, also where it is within a head of a task."""
    lists: list[Any] = [module for name, module in gpt.named_modules() if name.rpartition(".")[2] == "blocks"]
    return [block for blocks in lists for block in blocks]


def hidden_matrices(gpt: nn.Module) -> list[Tensor]:
    """Return the weights of linear layers in the blocks that are trained, in order; an adapter's are none of them."""
    layers = [layer for block in blocks_of(gpt) for layer in block.modules() if isinstance(layer, nn.Linear)]
    return list(dict.fromkeys(layer.weight for layer in layers if layer.weight.requires_grad))


def set_rates(optimizer: Optimizer, lr: float, multiplier: float) -> list[float]:
    """Set the rate of each group by a peak rate and the schedule's multiplier; returns the groups' own peak rates."""
    peaks = [lr * group.get("lr_ratio", 1.0) for group in optimizer.param_groups]
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["initial_lr"], group["lr"] = peak, peak * multiplier
    return peaks


def base_rate(optimizer: Optimizer) -> float:
    """Return the rate of a step, of the parameters whose rate does not depend on the model's sizes."""
    group = optimizer.param_groups[0]
    found: float = group["lr"] / group.get("lr_ratio", 1.0)
    return found


class ConstantNorms:
    """A pair of hooks on an optimizer that keep the Frobenius norms that matrices had before its first step.

    Matrices of the groups with `constant_norm` are multiplied by a number after each step, which moves them to the
    nearest point of their sphere: the weights' half of Hyperball (Wen et al. 2026). Norms are part of the optimizer's
    state, so that a resumed run keeps them.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.first: dict[Tensor, Tensor] = {}
        optimizer.register_step_pre_hook(self.before)
        optimizer.register_step_post_hook(self.after)

    @torch.no_grad()
    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Measure the matrices that have not been stepped yet."""
        new = (p for p in _held(optimizer) if "norm" not in optimizer.state.get(p, ()))
        self.first = {p: _norm(p).to(p.dtype) for p in new}

    @torch.no_grad()
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Put the matrices that were stepped back on their spheres."""
        for p in _held(optimizer):
            if p.grad is not None:  # without, it was not stepped, and its state must stay empty until it is
                state = optimizer.state[p]
                if "norm" not in state:
                    state["norm"] = self.first[p]
                p.mul_(state["norm"] / _norm(p).clamp(min=1e-30))


def _held(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        if group.get("constant_norm"):
            yield from group["params"]


def _norm(matrix: Tensor) -> Tensor:
    """Return the Frobenius norm of a matrix, in fp32 or more."""
    return torch.linalg.vector_norm(matrix, dtype=torch.promote_types(matrix.dtype, torch.float32))
