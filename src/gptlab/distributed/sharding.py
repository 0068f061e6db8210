"""Shard weights, gradients and optimizer state over devices: FSDP2 (Zhao et al. 2023; Rajbhandari et al. 2020)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer


def shard(gpt: Any, device_type: str, world_size: int, dtype: torch.dtype | None) -> None:
    """Shard a model in place: each of the `blocks` in it is gathered when it is computed, and given back after that.

    A model without blocks is gathered as a whole.

    Blocks compute in `dtype` (None: that of the weights). A model that is sharded already stays as it is.
    """
    if any(hasattr(p, "full_tensor") for p in gpt.parameters()):
        return
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh(device_type, (world_size,))
    lists = [module for name, module in gpt.named_modules() if name.rpartition(".")[2] == "blocks"]
    layers: list[nn.Module] = [*(block for blocks in lists for block in blocks), gpt]
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)


def full_tensor(tensor: Any) -> Tensor:
    """Return the full tensor of which each rank may hold a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def load_whole_weights(module: nn.Module, weights: dict[str, Any], every: bool = True) -> None:
    """Give a sharded module the weights of a checkpoint, which are whole on every rank; each keeps its part of them.

    Unless they are `every` weight of the module, the others stay as they are.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(module, dict(weights), options=StateDictOptions(full_state_dict=True, strict=every))


def load_whole_optimizer_state(module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give the optimizer of a sharded module the state of a checkpoint, which is whole on every rank.

    `state` is what `Optimizer.state_dict` returns on one device, or what a sharded run has saved: parameters have
    numbers, which mean nothing but their places in its groups, as in `Optimizer.load_state_dict`.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    names = {parameter: name for name, parameter in module.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    name_of = dict(zip(numbers, ordered, strict=True))
    if not state["state"]:  # plain gradient descent
        optimizer.load_state_dict(state)
        return
    named: dict[str, Any] = {
        "state": {name_of[number]: values for number, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [name_of[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }
    set_optimizer_state_dict(module, optimizer, named, options=StateDictOptions(full_state_dict=True))
