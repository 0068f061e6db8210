"""Measure the most that a device can do: matrix products, and reading its memory."""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F


def best_product(rows: int, widths: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the best of the products (rows, inner) x (inner, outer)."""
    rates = []
    for inner, outer in widths:
        a, b = (torch.randn(n, inner, device=device).to(dtype) for n in (rows, outer))
        rates.append(2 * rows * inner * outer / least_seconds(lambda a=a, b=b: F.linear(a, b), device))
    return max(rates)


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second at which a large array is summed."""
    array = torch.ones(50_000_000 if device.type == "cpu" else 500_000_000, device=device)
    return array.nbytes / least_seconds(array.sum, device)


def least_seconds(work: Callable[[], object], device: torch.device, budget: float = 0.2) -> float:
    """The fastest of as many calls as fit into the budget, five at least; on a GPU of ten in a row, so that starting
    them does not count."""
    times: list[float] = []
    calls = 1 if device.type == "cpu" else 10
    while len(times) < 5 or sum(times) * calls < budget:
        wait_for(device)
        start = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(device)
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
