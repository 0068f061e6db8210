"""Measure the most that a device can do: matrix products, and reading its memory."""

import functools
import math
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

SQUARES = {"cpu": (512, 1024), "cuda": (4096, 8192)}  # sides of matrices whose product comes near to the peak
READ = {"cpu": 50_000_000, "cuda": 500_000_000}  # numbers of an array that no cache holds


def best_square_product(dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of the best of some products of square matrices in a dtype."""
    sides = SQUARES.get(device.type, SQUARES["cpu"])
    return max(best_product(side, [(side, side)], dtype, device) for side in sides)


def best_product(rows: int, widths: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device) -> float:
    """Return the FLOP/s of the best of the products (rows, inner) x (inner, outer)."""
    rates = []
    for inner, outer in widths:
        a, b = (torch.randn(n, inner, device=device).to(dtype) for n in (rows, outer))
        seconds = least_seconds(functools.partial(F.linear, a, b), device)
        rates.append(2 * rows * inner * outer / seconds)
    return max(rates)


def read_bandwidth(device: torch.device) -> float:
    """Return the bytes a second at which a large array is summed."""
    array = torch.ones(READ.get(device.type, READ["cpu"]), device=device)
    return array.nbytes / least_seconds(array.sum, device)


@torch.no_grad()
def least_seconds(work: Callable[[], object], device: torch.device, budget: float = 0.2, least: int = 5) -> float:
    """Return the seconds of the fastest of as many calls as fit into the budget, `least` of them at least.

    On a GPU it is that of ten in a row, so that starting them does not count.
    """
    best, total, done = math.inf, 0.0, 0
    calls = 1 if device.type == "cpu" else 10
    while done < least or total < budget:
        wait_for_device(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for_device(device)
        seconds = time.perf_counter() - start
        best, total, done = min(best, seconds / calls), total + seconds, done + 1
    return best


def wait_for_device(device: torch.device) -> None:
    """Wait until a device has finished its work; a GPU runs asynchronously."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
