"""Linear layers with weights of 8 bits, for inference on a CPU, where a token costs as much as the weights it reads.

Each row of weights has a scale of its own, and so has each position of the input, which is rounded as well: products
are of whole numbers, by PyTorch's own kernels (FBGEMM, or QNNPACK on ARM). Dettmers et al. 2022, LLM.int8(), section 2,
call these vector-wise scales.
"""

import platform
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.bf16 import capabilities
from gptlab.decoding.linear_layers import replace_linear_layers

LEVELS = 127  # the largest whole number that stands for a weight
LEAST = 1e-30  # a scale, where everything is 0


class Int8Linear(nn.Module):
    """A linear layer with weights of int8, for inputs (..., K) in fp32: no position has a part in another's output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weights, scales = quantized(linear.weight.detach().float())
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():  # it is to go some day, and nothing as fast is there yet
            warnings.filterwarnings("ignore", ".*deprecated")
            padded = F.pad(weights * scales[:, None], (0, 2))  # for the extremes
            stored = torch.quantize_per_channel(padded, scales.double(), zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(stored, None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.nbytes = padded.numel() + scales.nbytes + (0 if self.bias is None else self.bias.nbytes)
        # the kernel rounds by the least and the largest of all inputs: each row has two more, of weight 0
        self.extremes = torch.tensor([-1.0, 1.0])
        self.narrow = saturates()

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, (..., N)."""
        scales = x.abs().amax(-1, keepdim=True).clamp_min_(LEAST)
        inputs = torch.cat((x / scales, self.extremes.expand(*x.shape[:-1], 2)), -1)
        try:
            outputs = torch.ops.quantized.linear_dynamic.default(inputs, self.packed, self.narrow)
        except RuntimeError:  # of NaN: a position that is not finite has outputs that are not, by its scale
            outputs = torch.ops.quantized.linear_dynamic.default(inputs.nan_to_num_(0.0), self.packed, self.narrow)
        return outputs * scales if self.bias is None else torch.addcmul(self.bias, outputs, scales)


def quantized(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (N, K) as whole numbers from -127 to 127, and the scale of each row, (N,)."""
    scales = (weights.abs().amax(1) / LEVELS).clamp_min(LEAST)
    return (weights / scales[:, None]).round(), scales


def is_offered() -> bool:
    """Return whether this PyTorch has layers of int8."""
    has_kernels = hasattr(torch, "quantize_per_channel") and hasattr(torch.ops.quantized, "linear_dynamic")
    return has_kernels and torch.backends.quantized.engine != "none"


def saturates() -> bool:
    """Return whether sums of two products overflow on this processor, so that inputs may have 7 bits only."""
    return platform.machine().lower() in ("x86_64", "amd64") and not capabilities().get("avx512_vnni")


def pack_int8(model: nn.Module) -> None:
    """Replace the linear layers in place, but for those of a single input."""
    replace_linear_layers(model, lambda linear: Int8Linear(linear) if linear.in_features > 1 else linear)
