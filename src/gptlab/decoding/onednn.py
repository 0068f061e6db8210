"""Lay out weights for fast reading: on a CPU, a matrix times one or a few vectors is limited by memory.

PyTorch's linear layer reads fp32 weights with one thread and bf16 weights row by row; oneDNN reads weights in a layout
of its own about twice as fast (benchmarks/decode.py). Inductor calls the same operators for frozen models.
"""

import torch
from torch import Tensor, nn

from gptlab.decoding.linear_layers import replace_linear_layers


class OneDNNLinear(nn.Module):
    """A linear layer for inference only, in oneDNN's layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), 1)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


def pack(model: nn.Module) -> bool:
    """Replace the linear layers in place if oneDNN supports them: on a CPU, in fp32 or bf16."""
    first = next(model.parameters())
    usable = first.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    usable = usable and all(hasattr(torch.ops.mkldnn, op) for op in ("_reorder_linear_weight", "_linear_pointwise"))
    if first.dtype == torch.bfloat16:
        usable = usable and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not usable or first.dtype not in (torch.float32, torch.bfloat16):
        return False
    replace_linear_layers(model, OneDNNLinear)
    return True
