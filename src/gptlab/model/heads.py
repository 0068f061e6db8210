"""Tell a model from the head that a task has put around it."""

from typing import Any

import torch
from torch import nn

from gptlab.model.config import build_model


def trunk_of(model: Any) -> nn.Module:
    """Return the model in a model with the head of a task: the module that its config builds."""
    with torch.device("meta"):
        kind = type(build_model(model.config))
    found: nn.Module = next(module for module in model.modules() if type(module) is kind)
    return found


def parameters_beside(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a model that are not those of the model in it, by name."""
    trunk = set(map(id, trunk_of(model).parameters()))
    return {name: p for name, p in model.named_parameters() if id(p) not in trunk}
