"""Energy by counters: on a made-up powercap tree, over the point where a counter begins again, and over a resumption."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptlab.training import energy
from gptlab.training.callbacks.energy_monitor import EnergyMonitor
from gptlab.training.config import TrainConfig
from gptlab.training.energy import counters
from gptlab.training.run import train

CPU = torch.device("cpu")
ZONES = {  # name, microjoules
    "intel-rapl:0": ("package-0", 5_000_000),
    "intel-rapl:0:0": ("core", 4_000_000),  # in the package
    "intel-rapl:0:1": ("dram", 900_000),
    "intel-rapl:1": ("psys", 9_000_000),  # all of the above, and more
    "intel-rapl-mmio:0": ("package-0", 5_000_000),  # the first again
}


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for zone, (name, value) in ZONES.items():
        (tmp_path / "powercap" / zone).mkdir(parents=True)
        for file, text in {"name": name, "max_energy_range_uj": 10_000_000, "energy_uj": value}.items():
            (tmp_path / "powercap" / zone / file).write_text(f"{text}\n")
    return tmp_path / "powercap"


def count(powercap: Path, zone: str, microjoules: int) -> None:
    (powercap / zone / "energy_uj").write_text(f"{microjoules}\n")


def trainer(step: int = 0, num_nodes: int = 1) -> Any:
    return SimpleNamespace(is_global_zero=True, num_nodes=num_nodes, global_step=step)


def test_packages_and_memory_count_once(powercap: Path) -> None:
    found = counters(CPU, [], powercap)
    for zone in ZONES:
        count(powercap, zone, 9_500_000)
    assert sum(each.taken() for each in found) == pytest.approx(4.5 + 8.6)  # of package-0 and dram
    count(powercap, "intel-rapl:0", 1_000_000)  # it has begun again: 0.5 to its end, and 1
    assert sum(each.taken() for each in found) == pytest.approx(1.5)


def test_who_may_not_read_has_no_counters(powercap: Path, tmp_path: Path) -> None:
    assert counters(CPU, [], tmp_path / "none") == []
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    (powercap / "intel-rapl:0" / "energy_uj").mkdir()  # root may read any file
    assert counters(CPU, [], powercap) == []


def test_gpus_and_processors_together_or_nothing(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = {"GPU-a": 100, "GPU-b": 7000}
    nvml = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: millijoules[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(energy, "_uuid", lambda index: ["GPU-a", "GPU-b"][index])
    found = counters(torch.device("cuda"), [1], powercap)
    millijoules["GPU-a"], millijoules["GPU-b"] = 99_000, 9000
    assert [each.taken() for each in found] == pytest.approx([0, 0, 2])

    del millijoules["GPU-b"]
    monkeypatch.setattr(nvml, "NVMLError", KeyError)
    with pytest.raises(OSError):  # the driver is gone in mid-run
        found[2].taken()

    def broken() -> None:
        raise KeyError("no driver")

    monkeypatch.setattr(nvml, "nvmlInit", broken)
    assert counters(torch.device("cuda"), [1], powercap) == []
    assert counters(torch.device("mps"), [0], powercap) == []


def test_a_resumed_run_adds_to_what_it_took_before(powercap: Path) -> None:
    first, second, unknown, many = (EnergyMonitor(lambda _: counters(CPU, [], powercap)) for _ in range(4))
    module: Any = None
    first.on_train_start(trainer(), module)
    count(powercap, "intel-rapl:0", 7_000_000)
    state = first.state_dict()
    count(powercap, "intel-rapl:0", 8_000_000)  # after its checkpoint: lost, and taken again
    second.load_state_dict(state)
    second.on_train_start(trainer(step=3), module)
    count(powercap, "intel-rapl:0", 9_000_000)
    second.on_train_end(trainer(step=6), module)
    assert second.kwh == pytest.approx((2 + 1) / 3.6e6)
    unknown.on_train_start(trainer(step=3), module)  # the checkpoint does not say
    many.on_train_start(trainer(num_nodes=2), module)
    assert unknown.kwh is None and many.kwh is None


@pytest.mark.slow
def test_the_summary_has_it_where_it_is_known(
    tiny: Callable[..., TrainConfig], tmp_path: Path, powercap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlab.training.build.counters", lambda device, _: counters(device, [], powercap))
    known = train(tiny("budget.steps=2", f"run_dir={tmp_path}/known"))
    monkeypatch.setattr("gptlab.training.build.counters", lambda *_: [])
    unknown = train(tiny("budget.steps=2", f"run_dir={tmp_path}/unknown"))
    assert known is not None and unknown is not None
    assert known["energy_kwh"] == 0 and "energy_kwh" not in unknown  # counters that stand still
    assert 0 < known["mfu"] < 1 and "peak_memory_bytes" not in known
