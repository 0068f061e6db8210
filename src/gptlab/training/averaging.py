"""Average the weights exponentially; the average is then validated, sampled and saved."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of the weights over steps: after the first step a copy, then decay * average + (1 - decay) * weights.

    (Polyak & Juditsky 1992; the exponential form as in Tarvainen & Valpola 2017.) With a `decay` of None there is no
    average.
    """

    def __init__(self, decay: float | None) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}  # by parameter name; empty before the first step

    @torch.no_grad()
    def update(self, gpt: nn.Module) -> None:
        """Add the weights after an optimizer step to the average."""
        if self.decay is None:
            return
        weights = {name: p for name, p in gpt.named_parameters() if p.requires_grad}
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in weights.items()}
            return
        current = [weights[name].detach() for name in self.average]
        # a checkpoint is read before the model is on its device
        self.average = {
            name: value.to(weight.device) for (name, value), weight in zip(self.average.items(), current, strict=True)
        }
        torch._foreach_lerp_(list(self.average.values()), current, 1 - self.decay)

    @contextlib.contextmanager
    def applied(self, gpt: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights within the context; its own return even after an error."""
        if not self.average:
            yield
            return
        weights = dict(gpt.named_parameters())
        own = {name: weights[name].detach().clone() for name in self.average}
        try:
            self._copy(weights, self.average)
            yield
        finally:
            self._copy(weights, own)

    def apply(self, gpt: nn.Module) -> None:
        """Give the model the averaged weights for good, at the end of a run."""
        self._copy(dict(gpt.named_parameters()), self.average)

    @staticmethod
    @torch.no_grad()
    def _copy(weights: dict[str, Any], values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            weights[name].copy_(value)

    def save(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """Store the average where other commands look for weights, and the trained weights beside it."""
        if not self.average:
            return
        trained = checkpoint["state_dict"]
        checkpoint["current_model_state"] = trained
        named = {f"{prefix}{name}": value for name, value in self.average.items()}
        # a tied head is one parameter under two names
        by_memory = {trained[name].data_ptr(): value for name, value in named.items()}
        checkpoint["state_dict"] = {name: by_memory.get(w.data_ptr(), w) for name, w in trained.items()}

    def load(self, checkpoint: dict[str, Any], prefix: str, gpt: nn.Module) -> None:
        """Take the average out of a checkpoint, and leave the trained weights in `state_dict`.

        A sharded model, which has no average, was given its trained weights before.
        """
        trained = checkpoint.pop("current_model_state", None)
        if trained is None:
            return
        averaged, checkpoint["state_dict"] = checkpoint["state_dict"], trained
        if self.decay is not None:
            trained_names = [name for name, p in gpt.named_parameters() if p.requires_grad]
            self.average = {name: averaged[f"{prefix}{name}"].clone() for name in trained_names}
