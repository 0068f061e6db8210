"""Decay weights only where the update shrinks them too: cautious weight decay (Chen et al. 2025)."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW


def decay(p: Tensor, update: Tensor, amount: float) -> None:
    """Multiply by 1 - amount the weights that have the sign of the update, which is subtracted from them."""
    p.mul_(1 - amount * (update.sign() * p >= 0))


class CautiousDecay:
    """A hook on an AdamW that does the weight decay of groups with `cautious_weight_decay`, just before the update.

    The sign of AdamW's update is the one of its average of gradients. The groups' own `weight_decay` is 0.
    """

    def __init__(self, optimizer: AdamW) -> None:
        optimizer.register_step_pre_hook(self.before)

    def before(self, optimizer: AdamW, args: Any, kwargs: Any) -> Any:
        """Decay, or let the closure do so once it has made the gradients."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.decay(optimizer)
            return None

        def closure_and_decay() -> Any:
            loss = closure()
            self.decay(optimizer)
            return loss

        return args[:1], {"closure": closure_and_decay}

    @torch.no_grad()
    def decay(self, optimizer: AdamW) -> None:
        """Decay the weights by their gradients and the state before the step; none if fp16 overflowed in it."""
        finite = 1.0
        if getattr(optimizer, "found_inf", None) is not None:
            finite = 1.0 - optimizer.found_inf  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            amount = group["lr"] * group.get("cautious_weight_decay", 0.0)
            for p in group["params"] if amount else ():
                if p.grad is not None:
                    average = optimizer.state.get(p, {}).get("exp_avg")
                    update = p.grad if average is None else torch.lerp(average, p.grad, 1 - group["betas"][0])
                    decay(p, update, amount * finite)
