"""Read how much energy a machine has taken, from the counters of its processors (RAPL) and of NVIDIA's GPUs (NVML).

The processors' counters are of all that runs on them, not of one process. A machine that keeps none, or lets only
others read them, tells nothing: no figure is made up.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
JOULES_PER_KWH = 3.6e6


class Counter(Protocol):
    """A counter of energy."""

    def taken(self) -> float:
        """Return the joules since the last call, or since the counter was made; raises OSError where it is gone."""


class Rapl:
    """A zone of Linux's powercap: a file that counts microjoules, and begins again at 0 above a maximum."""

    def __init__(self, zone: Path) -> None:
        self.file = zone / "energy_uj"
        self.most = int((zone / "max_energy_range_uj").read_text())
        self.last = int(self.file.read_text())

    def taken(self) -> float:
        now = int(self.file.read_text())
        passed = now - self.last if now >= self.last else now + self.most - self.last
        self.last = now
        return passed / 1e6


class Nvml:
    """A GPU's own counter of millijoules since its driver was loaded (Volta and later); `read` returns it."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.read = read
        self.last = read()

    def taken(self) -> float:
        before, self.last = self.last, self.read()
        return (self.last - before) / 1e3


def counters(device: torch.device, indices: Sequence[int], powercap: Path = POWERCAP) -> list[Counter]:
    """Return the counters of this machine that can be read: of its processors, and of the GPUs of these indices.

    Where the devices are GPUs that do not tell, there are none: processors alone are not what the run takes.
    """
    found: list[Counter] = [*_processors(powercap)]
    if device.type == "cpu":
        return found
    gpus = _gpus(indices) if device.type == "cuda" else []
    return [*found, *gpus] if gpus else []


def _processors(powercap: Path) -> list[Rapl]:
    """Return the counters of the packages, and of memory where it has its own: no zone that is within another."""
    zones = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith("package-") or name == "dram":  # core and uncore are in package, all of it in psys
                zones.append(Rapl(zone))
        except (OSError, ValueError):  # only root may read them on most machines
            return []
    return zones


def _gpus(indices: Sequence[int]) -> list[Nvml]:
    """Return the counters of these of the GPUs that this process sees; none where one of them has none."""
    try:
        import pynvml
    except ImportError:
        return []

    def read(handle: Any) -> int:
        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByUUID(_uuid(index)) for index in indices]
        return [Nvml(functools.partial(read, handle)) for handle in handles]
    except (pynvml.NVMLError, OSError):
        return []


def _uuid(index: int) -> Any:
    return f"GPU-{torch.cuda.get_device_properties(index).uuid}"
