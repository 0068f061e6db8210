"""Define linear layers with low-rank additions, which can be merged into their weights."""

import fnmatch
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.errors import UserError, require


class LoRALinear(nn.Linear):
    """A linear layer whose weights W are W + s B A, with A (r, in) and B (out, r), of which B is zero at first.

    (Hu et al. 2022, eq. 3.) W and the bias are those of the layer that it is made of.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale
        self.lora_dropout = nn.Dropout(dropout)
        device = layer.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, layer.in_features, device=device))
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self._added(x)

    def _added(self, x: Tensor) -> Tensor:
        """Return s B A x; the factors may be more precise than x and W."""
        inner = F.linear(self.lora_dropout(x), self.lora_a.to(x.dtype))
        return F.linear(inner, self.lora_b.to(x.dtype)) * self.scale

    def merged_weight(self) -> Tensor:
        """Return W + s B A, (out, in)."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a).to(self.weight.dtype)


class DoRALinear(LoRALinear):
    """A linear layer whose rows have the directions of W + s B A and lengths of their own (Liu et al. 2024, eq. 5)."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(layer, rank, scale, dropout)
        weight = layer.weight.detach().float()
        self.lora_magnitude = nn.Parameter(torch.linalg.vector_norm(weight, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        y = (F.linear(x, self.weight) + self._added(x)) * self._gain().to(x.dtype)
        return y if self.bias is None else y + self.bias

    def _gain(self) -> Tensor:
        """Return the length of each row over that of W + s B A, (out,); the latter is a constant to the gradient."""
        with torch.no_grad():
            length = torch.linalg.vector_norm(super().merged_weight().float(), dim=1)
        return self.lora_magnitude / length

    def merged_weight(self) -> Tensor:
        """Return the rows of W + s B A with their own lengths, (out, in)."""
        return super().merged_weight() * self._gain()[:, None].to(self.weight.dtype)


def replace_layers(model: nn.Module, patterns: Sequence[str], make: Callable[[nn.Linear], LoRALinear]) -> list[str]:
    """Replace linear layers in place; returns the names of the parameters that they have besides weights and biases.

    Without patterns they are all that stand in `blocks`. A pattern, with * and ?, is the end of a name from a dot on.
    Raises UserError for a pattern that no layer fits.
    """
    layers = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    inner = [name for name in layers if "blocks" in name.split(".")]
    chosen = {name for name in inner or layers if not patterns}
    for pattern in patterns:
        found = {name for name in layers if fnmatch.fnmatchcase(f".{name}", f"*.{pattern}")}
        kinds = dict.fromkeys(name.split("blocks.")[-1].partition(".")[2] if name in inner else name for name in layers)
        require(bool(found), "adapter.layers", pattern, "fits no linear layer", f"there are {', '.join(kinds)}")
        chosen |= found
    require(bool(chosen), "adapter", "lora", "the model has no linear layer", "choose another")
    shared = _uses(model)
    names = []
    for name in layers:
        if name not in chosen:
            continue
        if shared[id(layers[name].weight)] > 1:
            todo = "leave it out, or train a model with model.tied=false"
            raise UserError("adapter.layers", name, "shares its weights with another layer", todo)
        made = make(layers[name]).train(layers[name].training)
        model.set_submodule(name, made)
        names += [f"{name}.{key}" for key, _ in made.named_parameters() if key not in ("weight", "bias")]
    return names


def _uses(model: nn.Module) -> dict[int, int]:
    """Return in how many places each parameter is used."""
    found: dict[int, int] = {}
    for _, p in model.named_parameters(remove_duplicate=False):
        found[id(p)] = found.get(id(p), 0) + 1
    return found


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Replace the layers with additions by plain ones that compute the same, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            plain = nn.Linear(1, 1, bias=False, device="meta")
            plain.in_features, plain.out_features = module.in_features, module.out_features
            plain.weight, plain.bias = nn.Parameter(module.merged_weight()), module.bias
            model.set_submodule(name, plain)
    return model
