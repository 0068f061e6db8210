import time

import pytest
import torch

from gptlab.training import peak_flops as peak
from gptlab.training.peak_flops import measure, peak_flops


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
    ],
)
def test_published_peaks(name: str, flops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), bf16=True) == (flops, f"{name}'s data sheet, bf16")


@pytest.mark.slow
def test_measured_where_nothing_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that advances ten milliseconds with every look: one product takes as long."""
    now = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now) / 100)
    monkeypatch.setattr(peak, "measured", measure)
    assert measure(torch.device("cpu"), torch.float32) == pytest.approx(2 * 1024**3 / 0.01)
    found = peak_flops(torch.device("cpu"), bf16=False)
    assert found.source == "measured: a 1024^3 product in fp32"


def test_the_measure_is_near_a_plain_timing() -> None:
    """Within a factor of ten, whatever else the machine does."""
    a = torch.randn(1024, 1024)
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    plain = 5 * 2 * 1024**3 / (time.perf_counter() - start)
    assert plain / 10 < measure(torch.device("cpu"), torch.float32) < plain * 10
