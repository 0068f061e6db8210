"""Name the GPUs of this machine."""

import glob
import os
import sys

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
