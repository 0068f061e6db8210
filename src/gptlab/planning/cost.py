"""Estimate the time, energy and price of a number of floating-point operations on a kind of device."""

from __future__ import annotations

from dataclasses import dataclass

from gptlab.errors import require
from gptlab.registry import option

CHINCHILLA = 20  # tokens a parameter at the least loss for the operations (Hoffmann et al. 2022)


@option("hardware", "h100")
@dataclass
class Hardware:
    """A kind of device, by its data sheet and what an hour of it costs; the defaults are an NVIDIA H100 SXM."""

    name: str = "NVIDIA H100 SXM"  # as it is shown
    bf16: float = 989e12  # floating-point operations a second, of dense products in bf16
    fp16: float = 989e12  # the same in fp16
    fp32: float = 67e12  # the same in fp32
    memory: float = 80e9  # bytes of each device
    watts: float = 700.0  # the most that each device takes; what is around it comes on top
    price: float | None = 3.5  # dollars for an hour of one device; null: not known
    as_of: str = "2024-07"  # the date of the price
    source: str = "data sheet; price: 192 hours for $672, llm.c's GPT-2 1558M"  # where these figures come from

    def __post_init__(self) -> None:
        for key in ("bf16", "fp16", "fp32", "memory", "watts"):
            require(getattr(self, key) > 0, key, getattr(self, key), "is not above 0", "see the device's data sheet")
        price = self.price
        require(price is None or price >= 0, "price", price, "is negative", "null leaves it out")

    def peak(self, precision: str) -> float:
        """Return the operations a second in a precision of the trainer, such as bf16-mixed."""
        return {"bf16": self.bf16, "16": self.fp16}.get(precision.partition("-")[0], self.fp32)


@dataclass(frozen=True)
class Cost:
    """The cost of a computation, over all devices."""

    gpu_hours: float  # hours of one device
    kwh: float  # at the most that the devices take
    price: float | None  # in dollars; None where that of an hour is not known


def cost_of(gpu_hours: float, hardware: Hardware) -> Cost:
    """Return the energy and the price of hours of one device."""
    price = None if hardware.price is None else gpu_hours * hardware.price
    return Cost(gpu_hours, gpu_hours * hardware.watts / 1000, price)


def hours(flops: float, peak: float, mfu: float) -> float:
    """Return the hours of one device for operations of a model, at a share `mfu` of its peak operations a second."""
    return flops / (peak * mfu) / 3600


def mfu_of(flops: float, gpu_hours: float, peak: float) -> float:
    """Return the share of the peak that operations in these hours of one device are (Chowdhery et al. 2022)."""
    return flops / (gpu_hours * 3600 * peak)
