"""Find the devices that this process may use."""

import os


def gpus() -> list[str]:
    """Return the names of the GPUs that we may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(i) for i in range(torch.cuda.device_count())]
    return visible.split(",")[: len(names)] if visible else names
