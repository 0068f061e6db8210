"""Define the optimizers: each a dataclass of settings that builds itself for a model and imports torch only then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gptlab.errors import UserError, require, require_choice
from gptlab.registry import option

if TYPE_CHECKING:
    from torch import nn, optim
    from torch.optim import Optimizer

    from gptlab.optim.scaling import Ratios


class OptimizerConfig(Protocol):
    lr: float

    def build(self, gpt: nn.Module) -> Optimizer: ...


@dataclass
class Decaying:
    """The settings of all optimizers: a learning rate, and weight decay on matrices only, as in GPT-2 and GPT-3."""

    lr: float = 6e-4  # peak learning rate; a preset suits it to the width of the model
    weight_decay: float = 0.1  # pulls matrices towards 0; biases and norms are left alone

    # the power of a model's width that the rate of matrices in its blocks goes with, by muP; None: no such rule
    width_power: ClassVar[float | None] = None
    decoupled: ClassVar[bool] = True  # weight decay is beside the gradient, times the rate

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "is not above 0", "try 0.001 for a small model")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "is negative", "0 turns it off")
        for key in ("beta1", "beta2", "momentum"):
            beta = getattr(self, key, 0.9)
            require(0 <= beta < 1, key, beta, "is not in [0, 1)", "0.9 is usual")
        eps = getattr(self, "eps", 1.0)
        require(eps > 0, "eps", eps, "is not above 0", "1e-8 is usual")

    def groups(self, gpt: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters with weight decay, and those without.

        Where the model's parametrization or constant norms ask for it, matrices in the blocks, and vectors there, are
        groups of their own behind them. Raises UserError where there is no rule for it.
        """
        from gptlab.optim.scaling import blocks_of, hidden_matrices, ratios_of, require_rule

        require_rule(self, gpt)
        ratios = ratios_of(gpt)
        params = [p for p in gpt.parameters() if p.requires_grad]
        hidden = set(hidden_matrices(gpt)) if ratios or getattr(self, "hyperball", False) else set()
        blocks = blocks_of(gpt) if ratios.depth != 1 else []
        inner = {p for block in blocks for p in block.parameters() if p.ndim < 2}
        found: list[dict[str, Any]] = [
            {"params": [p for p in params if p.ndim >= 2 and p not in hidden], "weight_decay": self.weight_decay},
            {"params": [p for p in params if p.ndim < 2 and p not in inner], "weight_decay": 0.0},
        ]
        found = [{**group, **self.eps_of(ratios.width)} for group in found]
        within = self.eps_of(ratios.width * ratios.depth)
        if hidden:
            found.append({"params": [p for p in params if p in hidden], **self.of_hidden(ratios), **within})
        if inner:
            found.append({"params": [p for p in params if p in inner], "weight_decay": 0.0, **within})
        return found

    def of_hidden(self, ratios: Ratios) -> dict[str, Any]:
        """Return the settings of the matrices in the blocks; their decay in a step does not depend on the width."""
        found: dict[str, Any] = {"weight_decay": self.weight_decay}
        if getattr(self, "hyperball", False):
            found["constant_norm"] = True
        if ratios:
            ratio = ratios.width ** (self.width_power or 0.0)
            found |= {"lr": self.lr * ratio, "lr_ratio": ratio}
            found["weight_decay"] /= ratio if self.decoupled else 1.0
        return found

    def eps_of(self, ratio: float) -> dict[str, Any]:
        """Return the epsilon of parameters whose gradients become smaller by a ratio; {} where there is none."""
        return {} if ratio == 1 or not hasattr(self, "eps") else {"eps": self.eps / ratio}


@option("optimizer", "adamw")
@dataclass
class AdamW(Decaying):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    beta1: float = 0.9  # decay of the average of gradients
    beta2: float = 0.95  # decay of the average of squared gradients
    eps: float = 1e-8  # added to the root of the average of squared gradients
    fused: bool = True  # one kernel for all weights
    hyperball: bool = False  # matrices in the blocks keep the Frobenius norms that they begin with
    cautious_weight_decay: bool = False  # only weights that the update brings nearer to 0 decay (Chen et al. 2025)

    width_power: ClassVar[float | None] = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        key, asked = "cautious_weight_decay", self.cautious_weight_decay
        why = "needs decay beside the gradient, not in it"
        require(self.decoupled or not asked, key, True, why, "choose adamw or muon")
        why = "chooses what decays, and with weight_decay=0 nothing does"
        require(self.weight_decay > 0 or not asked, key, True, why, "give weight_decay, such as 0.1")

    def build(self, gpt: nn.Module) -> Optimizer:
        return self.held(self.adamw(self.groups(gpt)))

    def adamw(self, groups: list[dict[str, Any]]) -> optim.AdamW:
        """Return PyTorch's AdamW of groups, with cautious weight decay if that is asked for."""
        from torch import optim

        from gptlab.optim.cautious import CautiousDecay

        if not self.cautious_weight_decay:
            return optim.AdamW(groups, **self.settings())
        moved = [{**each, "weight_decay": 0.0, "cautious_weight_decay": each["weight_decay"]} for each in groups]
        optimizer = optim.AdamW(moved, **self.settings())
        CautiousDecay(optimizer)
        return optimizer

    def held(self, optimizer: Optimizer) -> Optimizer:
        """Let an optimizer keep the norms of matrices, if that is asked for."""
        from gptlab.optim.scaling import ConstantNorms

        if self.hyperball:
            ConstantNorms(optimizer)
        return optimizer

    def settings(self) -> dict[str, Any]:
        """Return the arguments of PyTorch's Adam and AdamW."""
        return {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps, "fused": self.fused}


@option("optimizer", "adam")
@dataclass
class Adam(AdamW):
    """Adam (Kingma & Ba 2015); its weight decay is L2: added to the gradient, so that it is adapted too."""

    weight_decay: float = 0.0

    decoupled: ClassVar[bool] = False

    def build(self, gpt: nn.Module) -> Optimizer:
        from torch import optim

        return self.held(optim.Adam(self.groups(gpt), **self.settings()))


@option("optimizer", "sgd")
@dataclass
class SGD(Decaying):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013)."""

    lr: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9  # decay of the sum of gradients
    nesterov: bool = False  # look ahead along the momentum

    def __post_init__(self) -> None:
        super().__post_init__()
        useless = self.nesterov and self.momentum == 0
        require(not useless, "nesterov", True, "looks ahead along a momentum of 0", "give momentum, such as 0.9")

    def build(self, gpt: nn.Module) -> Optimizer:
        from torch import optim

        return optim.SGD(self.groups(gpt), lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


@option("optimizer", "lion")
@dataclass
class Lion(Decaying):
    """The sign of a momentum (Chen et al. 2023), at a third to a tenth of AdamW's rate, with more decay."""

    lr: float = 1e-4
    weight_decay: float = 1.0
    beta1: float = 0.9  # weight of the average of gradients in a step
    beta2: float = 0.99  # decay of the average of gradients

    width_power: ClassVar[float | None] = -1.0

    def build(self, gpt: nn.Module) -> Optimizer:
        try:
            import lion_pytorch
        except ImportError as error:
            raise UserError("optimizer", "lion", f"needs {error.name}", "pip install 'gptlab[lion]'") from error
        optimizer: Optimizer = lion_pytorch.Lion(self.groups(gpt), lr=self.lr, betas=(self.beta1, self.beta2))
        return optimizer


@option("optimizer", "adafactor")
@dataclass
class Adafactor(Decaying):
    """Second moments by rows and columns only (Shazeer & Stern 2018), which take almost no memory."""

    lr: float = 0.01
    weight_decay: float = 0.0

    def build(self, gpt: nn.Module) -> Optimizer:
        from torch import optim

        return optim.Adafactor(self.groups(gpt), lr=self.lr)


@option("optimizer", "muon")
@dataclass
class Muon(AdamW):
    """Orthogonalized momentum for the matrices inside the blocks (Jordan et al. 2024), AdamW for all other parameters.

    Updates are scaled to the size of AdamW's (Liu et al. 2025), so that one rate serves both.
    """

    momentum: float = 0.95  # decay of the sum of gradients of the matrices
    coefficients: str = "quintic"  # of five Newton-Schulz iterations: quintic | polar_express (Amsel et al. 2025)
    normuon: bool = False  # rows of an update over the root of their second moments, by beta2 (Li et al. 2025)

    width_power: ClassVar[float | None] = -0.5  # a spectral norm that stays: Yang, Simon & Bernstein 2023

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("coefficients", self.coefficients, ("quintic", "polar_express"))

    def build(self, gpt: nn.Module) -> Optimizer:
        from gptlab.optim.muon import MuonOptimizer
        from gptlab.optim.scaling import blocks_of, ratios_of

        hidden = {p for block in blocks_of(gpt) for p in block.parameters() if p.ndim == 2 and p.requires_grad}
        groups = self.groups(gpt)
        for group in groups:
            group["params"] = [p for p in group["params"] if p not in hidden]
        groups = [group for n, group in enumerate(groups) if n < 2 or group["params"]]
        ordered = [p for p in gpt.parameters() if p in hidden]
        own = {"params": ordered, "lr": self.lr, "momentum": self.momentum, "coefficients": self.coefficients}
        own |= self.of_hidden(ratios_of(gpt))
        if self.normuon:
            own["row_beta2"] = self.beta2
        if self.cautious_weight_decay:
            own["cautious"] = True
        return self.held(MuonOptimizer(own, self.adamw(groups)))
