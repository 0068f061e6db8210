"""Weights, gradients and optimizer state sharded over devices: FSDP2 (Zhao et al. 2023; Rajbhandari et al. 2020)."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from gptlab.training.module import GPTModule


class ShardedGPTModule(GPTModule):
    """Every block is gathered when it is computed, and given back after that."""

    dtype_of_blocks: torch.dtype | None = None  # None: that of the weights

    def configure_model(self) -> None:
        if any(hasattr(p, "full_tensor") for p in self.gpt.parameters()):  # Lightning comes here for each of its loops
            return
        policy = MixedPrecisionPolicy(param_dtype=self.dtype_of_blocks, reduce_dtype=torch.float32)
        mesh = init_device_mesh(self.device.type, (self.trainer.world_size,))
        for layer in [*self.gpt.blocks, self.gpt]:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
