"""Keep in checkpoints what an adapter trains, and put the rest of the model back when a run goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.model.adapters import Adapter
from gptlab.model.lora import LoRALinear
from gptlab.runs.adapted import Base, describe, read_adapter, require_base


@dataclass(frozen=True)
class Adapted:
    """An adapter, the model that it was attached to, and the names of the parameters that it trains."""

    adapter: Adapter
    base: Base
    trained: list[str]

    def reduce(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """Leave of the weights in a checkpoint those that are trained, and say what they belong to."""
        for key in ("state_dict", "current_model_state"):
            if checkpoint.get(key):  # of a sharded model they are on rank 0 alone
                checkpoint[key] = {f"{prefix}{name}": checkpoint[key][f"{prefix}{name}"] for name in self.trained}
        checkpoint["adapter"] = describe(self.adapter, self.base)

    def complete(self, checkpoint: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Add the weights that are not trained; raises UserError where the checkpoint's base is another one."""
        before = read_adapter(checkpoint, {})[1]
        require_base(self.base.sha256, Base(self.base.path, before.sha256), "init_from", self.base.path)
        for key in ("state_dict", "current_model_state"):
            if key in checkpoint:
                checkpoint[key] = {**weights, **checkpoint[key]}


def freeze_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Round the weights that are not trained to the type that is computed in: they need no more precise copy.

    Nothing is done where parts that are trained do not compute with inputs of another type themselves: samples are
    drawn with the weights as they are.
    """
    own = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in m.parameters(recurse=False)}
    if any(p.requires_grad and id(p) not in own for p in model.parameters()):
        return
    for p in model.parameters():
        if not p.requires_grad:
            p.data = p.data.to(dtype)
