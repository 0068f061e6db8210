"""Name the GPUs and the processor of this machine."""

import glob
import os
import platform
import sys
from pathlib import Path

_GPU_FILES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvgpu*", "/dev/nvmap", "/dev/dxg", "/dev/kfd")


def may_have_gpu() -> bool:
    """Return False where this machine has no GPU for certain; torch, which knows, takes seconds to import."""
    return not sys.platform.startswith("linux") or any(glob.glob(pattern) for pattern in _GPU_FILES)


def gpus() -> list[str]:
    """Return the names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    import torch

    names = [str(i) for i in range(torch.cuda.device_count())]
    return visible.split(",")[: len(names)] if visible else names


def may_be_gpu(accelerator: str) -> bool:
    """Return whether an accelerator of Lightning's stands for a GPU where there is one."""
    return accelerator in ("auto", "gpu", "cuda")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor, or of its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
