"""Shard weights, gradients and optimizer state over devices: FSDP2 (Zhao et al. 2023; Rajbhandari et al. 2020)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def shard(gpt: Any, device_type: str, world_size: int, dtype: torch.dtype | None) -> None:
    """Shard a model in place: each of its `blocks` is gathered when it is computed, and given back after that.

    A model without blocks is gathered as a whole.

    Blocks compute in `dtype` (None: that of the weights). A model that is sharded already stays as it is.
    """
    if any(hasattr(p, "full_tensor") for p in gpt.parameters()):
        return
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh(device_type, (world_size,))
    layers: list[nn.Module] = [*getattr(gpt, "blocks", ()), gpt]
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)


def full_tensor(tensor: Any) -> Tensor:
    """Return the full tensor of which each rank may hold a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
