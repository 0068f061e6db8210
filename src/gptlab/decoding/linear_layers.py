"""Replace the linear layers of a model by others that compute the same, or nearly."""

from collections.abc import Callable

from torch import nn


def replace_linear_layers(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace each linear layer of a model, in place, by what `make` returns for it; subclasses are left alone."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, make(child))
