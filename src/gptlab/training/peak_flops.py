"""Find the peak FLOPs per second of a device: model FLOPs utilization (MFU) is a share of them."""

import functools
from typing import NamedTuple

import torch

from gptlab.planning.limits import least_seconds

# dense bf16 tensor-core peaks from NVIDIA's data sheets, by a part of the device's name; the first match counts
PUBLISHED = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "4090": 165e12,
    "A10": 125e12,
}
SIZE = 1024  # of the matrices for measuring, if no figure is published


class PeakFlops(NamedTuple):
    flops: float  # per second
    source: str  # the figure's origin


def peak_flops(device: torch.device, bf16: bool) -> PeakFlops:
    """Return the table's figure for a known GPU that computes in bf16, else the best of some matrix products."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    source = f"measured: a {SIZE}^3 product in {'bf16' if bf16 else 'fp32'}"
    return published_peak(device, bf16) or PeakFlops(measured(device, dtype), source)


def published_peak(device: torch.device, bf16: bool) -> PeakFlops | None:
    """Return the table's figure for a GPU that computes in bf16, if it is in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" and bf16 else ""
    found = [flops for part, flops in PUBLISHED.items() if part in name]
    return PeakFlops(found[0], f"{name}'s data sheet, bf16") if found else None


def measure(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """Return the best of the products that fit into `seconds`, at least three."""
    a, b = (torch.randn(SIZE, SIZE, device=device).to(dtype) for _ in range(2))
    return 2 * SIZE**3 / least_seconds(lambda: a @ b, device, seconds, least=3)


measured = functools.cache(measure)  # measured once per process
