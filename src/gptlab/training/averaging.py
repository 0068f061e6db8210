"""Average the weights over steps; the average is then validated, sampled and saved."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of the weights over steps: exponential with a `decay`, or the mean of those after step `begin`.

    Exponential: after the first step a copy, then decay * average + (1 - decay) * weights (Polyak & Juditsky 1992; the
    exponential form as in Tarvainen & Valpola 2017). The mean of the last steps alone is tail averaging (Jain et al.
    2018, section 2). Without both there is no average.
    """

    def __init__(self, decay: float | None = None, begin: int | None = None) -> None:
        self.decay, self.begin = decay, begin
        self.average: dict[str, Tensor] = {}  # by parameter name; empty before the first step that counts
        self.count = 0  # steps in it

    def __bool__(self) -> bool:
        return self.decay is not None or self.begin is not None

    @torch.no_grad()
    def update(self, gpt: nn.Module, step: int) -> None:
        """Add the weights after an optimizer step to the average."""
        if not self or (self.begin is not None and step <= self.begin):
            return
        weights = {name: p for name, p in gpt.named_parameters() if p.requires_grad}
        self.count += 1
        if not self.average:
            self.average = {name: p.detach().clone() for name, p in weights.items()}
            return
        current = [weights[name].detach() for name in self.average]
        # a checkpoint is read before the model is on its device
        self.average = {
            name: value.to(weight.device) for (name, value), weight in zip(self.average.items(), current, strict=True)
        }
        share = 1 / self.count if self.decay is None else 1 - self.decay
        torch._foreach_lerp_(list(self.average.values()), current, share)

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
        if self.begin is not None:
            checkpoint["tail_average"] = {"begin": self.begin, "count": self.count}
        named = {f"{prefix}{name}": value for name, value in self.average.items()}
        # a tied head is one parameter under two names
        by_memory = {trained[name].data_ptr(): value for name, value in named.items()}
        checkpoint["state_dict"] = {name: by_memory.get(w.data_ptr(), w) for name, w in trained.items()}

    def load(self, checkpoint: dict[str, Any], prefix: str, gpt: nn.Module) -> None:
        """Take the average out of a checkpoint, and leave the trained weights in `state_dict`.

        A mean that begins at another step, or an average of the other kind, is dropped. A sharded model, which has no
        average, was given its trained weights before.
        """
        self.average, self.count = {}, 0
        trained, tail = (checkpoint.pop(key, None) for key in ("current_model_state", "tail_average"))
        if trained is None:
            return
        averaged, checkpoint["state_dict"] = checkpoint["state_dict"], trained
        if self and self.begin == (None if tail is None else tail["begin"]):
            trained_names = [name for name, p in gpt.named_parameters() if p.requires_grad]
            self.average = {name: averaged[f"{prefix}{name}"].clone() for name in trained_names}
            self.count = 0 if tail is None else tail["count"]


def begin_of_tail(share: float | None, steps: int) -> int | None:
    """Return the step behind which the mean of a run's last weights begins, which has one step at the least."""
    return None if share is None else steps - max(1, round(share * steps))
