"""Compute the weights of attention in a model, which fused kernels never hold, beside them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gptlab.model.attention import CausalSelfAttention


@torch.no_grad()
def attention_at(gpt: Any, ids: Sequence[int], at: int) -> Tensor | None:
    """Return the attention of position `at` of a text, (2, L, H, T), for each of L layers and H heads.

    [0] has the weights that the position gives to each position, [1] those that each position gives to it. It is None
    for a model without layers of gptlab's attention.
    """
    found: list[Tensor] = []

    def note(layer: CausalSelfAttention, inputs: tuple[Any, ...]) -> None:
        weights = layer.weights(*inputs[:3])[0]  # (H, T, T) of x, rotation, bias
        found.append(torch.stack([weights[:, at], weights[:, :, at]]))

    layers = [module for module in gpt.modules() if isinstance(module, CausalSelfAttention)]
    if not layers:
        return None
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        gpt(torch.tensor([list(ids)], device=next(gpt.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found, dim=1)
