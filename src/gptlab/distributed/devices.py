"""Name the GPUs of this machine."""

import os


def gpus() -> list[str]:
    """Return the names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    import torch

    names = [str(i) for i in range(torch.cuda.device_count())]
    return visible.split(",")[: len(names)] if visible else names
