"""Define what of a model is trained where not all of it is: each option is a dataclass; importable without torch.

An adapter of another package registers itself by `@gptlab.option("adapter", NAME)`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gptlab.errors import UserError, require
from gptlab.registry import name_of, option

if TYPE_CHECKING:
    from torch import nn


class Adapter(Protocol):
    """The settings by which a part of a model is trained, which are fields of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    lr_ratio: float  # multiplies the optimizer's rate

    def attach(self, model: nn.Module) -> Collection[str]:
        """Change a model in place, without a change of what it computes; return the names of what is trained of it.

        `model` has the head of its task, whose own parameters are trained besides. Raises UserError.
        """


@option("adapter", "lora")
@dataclass
class LoRA:
    """A product of two thin matrices added to each linear layer of the blocks (Hu et al. 2022)."""

    rank: int = 8  # width of the product
    alpha: float = 16.0  # the product is multiplied by alpha / rank
    dropout: float = 0.0  # of the product's input
    rslora: bool = False  # alpha / sqrt(rank) instead (Kalajdzievski 2023), which suits high ranks
    layers: list[str] = field(default_factory=list)  # such as attn.* or blocks.0.mlp.fc; none: all of the blocks
    lr_ratio: float = 10.0  # multiplies optimizer.lr, which is meant for all weights (Schulman et al. 2025)

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "must be at least 1", "8 is usual")
        require(self.alpha > 0, "alpha", self.alpha, "is not above 0", "16 is usual")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "is not in [0, 1)", "0.0 turns it off")
        require_ratio(self.lr_ratio)

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return float(self.alpha / self.rank**0.5 if self.rslora else self.alpha / self.rank)

    def attach(self, model: nn.Module) -> Collection[str]:
        """Give the linear layers their products, which are zero at first."""
        from gptlab.model.lora import LoRALinear, replace_layers

        return replace_layers(model, self.layers, lambda layer: LoRALinear(layer, self.rank, self.scale, self.dropout))


@option("adapter", "dora")
@dataclass
class DoRA(LoRA):
    """LoRA for the direction of each row of weights, with its length trained apart (Liu et al. 2024)."""

    def attach(self, model: nn.Module) -> Collection[str]:
        """Give the linear layers their products and the lengths of their rows."""
        from gptlab.model.lora import DoRALinear, replace_layers

        return replace_layers(model, self.layers, lambda layer: DoRALinear(layer, self.rank, self.scale, self.dropout))


@option("adapter", "last_n")
@dataclass
class LastN:
    """The last layers and the norm behind them."""

    n: int = 1  # layers
    lr_ratio: float = 1.0  # multiplies optimizer.lr

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "must be at least 1", "try 1")
        require_ratio(self.lr_ratio)

    def attach(self, model: nn.Module) -> Collection[str]:
        """Name the weights of the last layers."""
        from gptlab.model.heads import trunk_of

        gpt: Any = trunk_of(model)
        able = hasattr(gpt, "blocks")
        require(able, "adapter", "last_n", f"needs a model with blocks, which {name_of(gpt.config)} is not", "try lora")
        why = f"is more than the {len(gpt.blocks)} layers of the model"
        require(self.n <= len(gpt.blocks), "adapter.n", self.n, why, "give fewer")
        parts = [*gpt.blocks[-self.n :], getattr(gpt, "ln_f", None)]
        return _names_of(model, [p for part in parts if part is not None for p in part.parameters()])


@option("adapter", "bitfit")
@dataclass
class BitFit:
    """The biases of all layers, norms among them (Ben Zaken et al. 2022)."""

    lr_ratio: float = 10.0  # multiplies optimizer.lr

    def __post_init__(self) -> None:
        require_ratio(self.lr_ratio)

    def attach(self, model: nn.Module) -> Collection[str]:
        """Name the biases."""
        found = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not found:
            raise UserError("adapter", "bitfit", "the model has no biases", "choose another, such as lora")
        return found


@option("adapter", "head")
@dataclass
class HeadOnly:
    """The head alone: the task's own, or else the language modelling head (with the embedding, where they are tied)."""

    lr_ratio: float = 1.0  # multiplies optimizer.lr

    def __post_init__(self) -> None:
        require_ratio(self.lr_ratio)

    def attach(self, model: nn.Module) -> Collection[str]:
        """Name the weights of the language modelling head, where the task has none of its own."""
        from gptlab.model.heads import parameters_beside, trunk_of

        head: Any = getattr(trunk_of(model), "lm_head", None)
        if parameters_beside(model) or head is None:
            return []
        return _names_of(model, list(head.parameters()))


def adapt(model: nn.Module, adapter: Adapter, also: Collection[str] = ()) -> list[str]:
    """Attach an adapter, and freeze all that it does not train; returns the names of what is trained.

    That is also the head of the task, and the parameters that `also` names. Raises UserError where it is nothing.
    """
    from gptlab.model.heads import parameters_beside

    beside = parameters_beside(model)
    trained = {*adapter.attach(model), *beside, *also}
    named = dict(model.named_parameters())
    for name, p in named.items():
        p.requires_grad_(name in trained)
    names = [name for name in named if name in trained]
    require(bool(names), "adapter", name_of(adapter), "trains nothing of this model", "choose another, such as lora")
    return names


def require_ratio(ratio: float) -> None:
    """Refuse a ratio of rates that is not above 0."""
    require(ratio > 0, "lr_ratio", ratio, "is not above 0", "10 is usual for lora, 1 keeps optimizer.lr")


def _names_of(model: nn.Module, parameters: Collection[Any]) -> list[str]:
    wanted = set(map(id, parameters))
    return [name for name, p in model.named_parameters() if id(p) in wanted]
