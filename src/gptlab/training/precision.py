"""Choose the type of numbers that a model computes in, and refuse what a device does not support."""

import torch

from gptlab.bf16 import has_instructions, lacking_instructions
from gptlab.distributed.devices import may_be_gpu
from gptlab.errors import require


def compute_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype to compute in, or None if Lightning's precision sets it: `bf16-true` has master weights."""
    return torch.bfloat16 if precision == "bf16-true" else None


def chosen_precision(precision: str, accelerator: str) -> str:
    """Return the precision that `auto` stands for on this machine: bf16 where the device computes in it, else fp32.

    Others are returned as they are.
    """
    if precision != "auto":
        return precision
    if may_be_gpu(accelerator) and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.backends.mps.is_available())
    return "bf16-true" if on_cpu and has_instructions() else "32-true"


def require_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that the device does not have: Lightning would use another, or the device emulate it."""
    half = device.type == "cpu" and precision == "16-mixed"
    require(not half, "trainer.precision", "16-mixed", "a CPU does not have it", "try bf16-mixed or bf16-true")
    if device.type == "cuda" and "bf16" in precision:
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        require(there, "trainer.precision", precision, "this GPU does not have bf16", "try 16-mixed")


def slow_precision(precision: str, device: torch.device) -> str | None:
    """Return a line of advice where a CPU has no instructions for a precision, so that torch emulates them.

    Nothing is said of processors about which torch does not tell.
    """
    if device.type != "cpu" or "bf16" not in precision:
        return None
    if not (known := lacking_instructions()):
        return None
    why = f"this processor has no instructions for bf16 (neither {' nor '.join(known)})"
    return f"trainer.precision={precision}: {why}; it may take many times as long as 32-true"
