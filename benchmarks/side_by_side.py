"""Run candidates side by side for all benchmarks: in fresh processes, in rounds; medians; the machine; JSON."""

import ctypes
import functools
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptlab.distributed.devices import processor

LIBRARIES = ("torch", "lightning", "hydra-core", "transformers", "peft", "accelerate", "litgpt", "tiktoken", "numpy")
THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))  # as asked, else all cores

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h

PROGRESS = {"tokens_per_second": "tokens/s", "seconds": "s", "val_loss": "nats"}  # figures that progress shows
DEVICES = ("auto", "cpu", "cuda")
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and both under Windows
ASK_FOR_GPU = """
import json, torch
found = None
if torch.cuda.is_available():
    gpu = torch.cuda.get_device_properties(0)
    found = {"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1), "cuda": torch.version.cuda}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Figure:
    """A measurement that was repeated."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        return cls(statistics.median(values), min(values), max(values), len(values))

    def ties(self, other: "Figure") -> bool:
        """Return whether the two cannot be told apart: their ranges overlap."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Done:
    """A process that has ended."""

    code: int
    out: str
    error: str
    seconds: float
    peak_mb: float  # resident memory of the process or of one of its children, whichever had more

    def why(self) -> str:
        """Return the last line that names an error, else the last line: launchers print more after it."""
        lines = [line.strip() for line in (self.error or self.out).splitlines() if any(map(str.isalnum, line))]
        errors = [line for line in lines if re.match(r"(error|[\w.]*(Error|Exception)):", line)]
        return ([*lines, *errors] or [f"exit code {self.code}"])[-1][:200]


def fresh(command: Sequence[object], env: dict[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run a command to its end; it finds as many threads as every other one.

    Its peak is that of this process at least, so keep this one small: no torch here.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), **(env or {})}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), env=environment, cwd=cwd, stdout=out, stderr=error)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return Done(process.returncode, out.read(), error.read(), seconds, usage.ru_maxrss / unit)


def interleaved(
    candidates: Sequence[str], repeats: int, measure: Callable[[str], dict[str, Any]]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """(what each candidate measured, why others are left out): every round asks each once. One that raises
    `LeftOut` is not asked again."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates}
    left_out: dict[str, str] = {}
    for round_ in range(repeats):
        for name in candidates:
            if name in left_out:
                continue
            try:
                result = measure(name)
            except LeftOut as why:
                left_out[name] = str(why)
                print(f"  {name} is left out: {why}", file=sys.stderr, flush=True)
                continue
            found[name].append(result)
            # what a benchmark that is ended early has measured is not lost
            known = {unit: result.get(key) for key, unit in PROGRESS.items()}
            figures = [f", {value:,.4g} {unit}" for unit, value in known.items() if isinstance(value, int | float)]
            print(f"  round {round_ + 1} of {repeats}: {name} is done{''.join(figures)}", file=sys.stderr, flush=True)
    return {name: each for name, each in found.items() if name not in left_out}, left_out


class LeftOut(Exception):
    """A candidate that is not here, or does not work here."""


def succeeded(done: Done) -> Done:
    """Return the process if it did not fail; else raise LeftOut with its error."""
    if done.code:
        raise LeftOut(done.why())
    return done


def versus(ours: Figure, theirs: Figure) -> str:
    """Return the ratio of two speeds, as a table shows it."""
    return f"{ours.median / theirs.median:.2f}" + (" (tie)" if ours.ties(theirs) else "")


def machine() -> dict[str, Any]:
    """Return a description of the machine that the figures were measured on."""
    versions = {name: _version(name) for name in LIBRARIES}
    return {
        "gpu": gpu(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: version for name, version in versions.items() if version},
    }


def megabytes(process: object, which: str) -> float:
    """Memory of a process on Linux: VmRSS now, VmHWM at its peak."""
    found = re.search(rf"{which}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1024


def separate_pages() -> None:
    """Let large tensors have pages of their own from here on, which are returned when they are freed.

    What is free now is returned too, and not used again: by it the peak of a fork would be too small.
    """
    libc = ctypes.CDLL(None)
    for which, value in {M_MMAP_THRESHOLD: 2**16, M_MMAP_MAX: 2**16, M_TRIM_THRESHOLD: 2**17}.items():
        libc.mallopt(which, value)
    libc.malloc_trim(0)


def described(found: dict[str, Any]) -> str:
    """Return a machine in one line."""
    cpu = (
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads, torch {found['versions']['torch']}"
    )
    return f"{found['gpu']['name']}; {cpu}" if found["gpu"] else cpu


@functools.cache
def gpu() -> dict[str, Any] | None:
    """Return the first GPU that torch finds; a separate process asks, so that this one stays small."""
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in DRIVERS):
        return None
    done = fresh([sys.executable, "-c", ASK_FOR_GPU])
    found: dict[str, Any] | None = json.loads(done.out) if done.code == 0 else None
    return found


def device(asked: str) -> str:
    """Return cpu or cuda; `auto` is the one that this machine has."""
    if asked == "cuda" and gpu() is None:
        raise SystemExit("error: --device=cuda: torch finds no GPU here; leave it out")
    return ("cuda" if gpu() else "cpu") if asked == "auto" else asked


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    for row in [heads, *rows]:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]), flush=True)


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2, default=asdict) + "\n")


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
