"""Put another head on a model, and tell a model from the head that a task has put around it."""

from typing import Any

import torch
from torch import Tensor, nn

from gptlab.errors import require
from gptlab.model.config import build_model
from gptlab.model.meta_device import on_meta
from gptlab.registry import name_of


class LastTokenHead(nn.Module):
    """A model with a linear layer over its last token in place of its own head: ids (B, T) in, logits (B, N) out."""

    def __init__(self, gpt: Any, size: int, bias: bool = True) -> None:
        super().__init__()
        able = hasattr(gpt, "hidden") and hasattr(gpt.config, "n_embd")
        why = "has no hidden(idx) of a width n_embd, which a head on its last token needs"
        require(able, "model", name_of(gpt.config), why, "give it both, or choose another model")
        self.gpt, self.config = gpt, gpt.config
        gpt.lm_head = nn.Identity()
        self.score = nn.Linear(gpt.config.n_embd, size, bias)

    def forward(self, idx: Tensor, last: Tensor) -> Tensor:
        """Return the logits of each row, which ends at the position `last` (B,); what is behind it is not seen."""
        rows = torch.arange(len(idx), device=idx.device)
        logits: Tensor = self.score(self.gpt.hidden(idx)[rows, last])
        return logits


def trunk_of(model: Any) -> nn.Module:
    """Return the model in a model with the head of a task: the module that its config builds."""
    with on_meta():
        kind = type(build_model(model.config))
    found: nn.Module = next(module for module in model.modules() if type(module) is kind)
    return found


def parameters_beside(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a model that are not those of the model in it, by name."""
    trunk = set(map(id, trunk_of(model).parameters()))
    return {name: p for name, p in model.named_parameters() if id(p) not in trunk}
