"""Run Muon and AdamW as one optimizer: steepest descent under the spectral norm for matrices (Jordan et al. 2024)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import AdamW, Optimizer

from gptlab.bf16 import has_instructions
from gptlab.optim.cautious import decay

Polynomial = tuple[float, float, float]

# the a, b and c of a x + b x^3 + c x^5 in each iteration
COEFFICIENTS: dict[str, list[Polynomial]] = {
    "quintic": [(3.4445, -4.7750, 2.0315)] * 5,  # whose slope at 0 is the steepest: Jordan et al. 2024
    # each the best there is for singular values that the ones before it leave, from 0.001 up: the values published with
    # Amsel et al. 2025 (arXiv 2505.16932). They suit values up to 1.01, since rounding in bf16 can bring some above 1
    "polar_express": [
        (a / 1.01, b / 1.01**3, c / 1.01**5)
        for a, b, c in [
            (8.28721201814563, -23.595886519098837, 17.300387312530933),
            (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
            (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
            (3.3184196573706015, -2.488488024314874, 0.51004894012372),
            (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
        ]
    ],
}


def orthogonalize(matrices: Tensor, coefficients: str = "quintic") -> Tensor:
    """Move the singular values of each matrix of (N, A, B) towards 1.

    Those from 0.001 of the matrix's norm up come to between 0.47 and 1.21 with the quintic, and to between 0.84 and
    1.13 with Polar Express. It is done in bf16, but in fp32 on a CPU that has no instructions for bf16.
    """
    emulated = matrices.device.type == "cpu" and has_instructions() is False
    return newton_schulz(matrices.float() if emulated else matrices.bfloat16(), COEFFICIENTS[coefficients])


def newton_schulz(x: Tensor, polynomials: list[Polynomial]) -> Tensor:
    """Apply odd polynomials, one after another, to the singular values of matrices (N, A, B) over their norms."""
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for a, b, c in polynomials:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def normalize_rows(updates: Tensor, second_moment: Tensor, beta2: float) -> Tensor:
    """Divide each row of updates (N, A, B) by the root of its second moment (N, A, 1), which is updated in place.

    The Frobenius norm of each matrix stays (NorMuon: Li et al. 2025). A row is what feeds one neuron.
    """
    norms = updates.norm(dim=(1, 2), keepdim=True)
    second_moment.lerp_(updates.square().mean(dim=2, keepdim=True), 1 - beta2)
    updates = updates / (second_moment.sqrt() + 1e-10)
    return updates * (norms / updates.norm(dim=(1, 2), keepdim=True).clamp(min=1e-10))


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor of which each rank may hold a shard."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_as(p: Tensor, tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor that is whole on each of them, if `p` is sharded; without a message."""
    if not isinstance(p, DTensor):
        return tensor
    copies = DTensor.from_local(tensor, p.device_mesh, [Replicate()] * p.device_mesh.ndim, run_check=False)
    return copies.redistribute(placements=p.placements)


class MuonOptimizer(Optimizer):
    """An optimizer of the matrices in a group by Muon and of the parameters in `adamw` by AdamW.

    The group has `params`, `lr`, `momentum` and `weight_decay`, and may have `coefficients`, `row_beta2` (NorMuon) and
    `cautious`. Both have common groups and state.
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
        together: dict[Any, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:  # sharded ones are made whole one at a time
                together.setdefault(p if isinstance(p, DTensor) else p.shape, []).append(p)
        for same in together.values():
            self._step(same, group)
        self.adamw.step()
        return loss

    def _step(self, same: list[Tensor], group: dict[str, Any]) -> None:
        """Update all matrices of one shape at once."""
        lr, momentum = group["lr"], group["momentum"]
        gradients = [p.grad for p in same if p.grad is not None]
        buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in same]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        ahead = torch.stack([whole(each) for each in torch._foreach_lerp(gradients, buffers, momentum)])  # Nesterov
        found = orthogonalize(ahead, group.get("coefficients", "quintic")).to(same[0].dtype)
        if "row_beta2" in group:
            moments = [self.state[p].setdefault("row_second_moment", torch.zeros_like(p[:, :1])) for p in same]
            stacked = torch.stack([whole(each) for each in moments])
            found = normalize_rows(found, stacked, group["row_beta2"])
            for p, moment, each in zip(same, moments, stacked, strict=True):
                moment.copy_(sharded_as(p, each))
        updates = [sharded_as(p, each) for p, each in zip(same, found, strict=True)]
        if group.get("cautious"):
            for p, update in zip(same, updates, strict=True):
                decay(p, update, lr * group["weight_decay"])
        else:
            torch._foreach_mul_(same, 1 - lr * group["weight_decay"])
        torch._foreach_add_(same, updates, alpha=-lr * 0.2 * max(same[0].shape) ** 0.5)
