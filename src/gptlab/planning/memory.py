"""Count the memory of a training step, without any: by running it with tensors that have shapes and no numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class StepMemory:
    """The bytes of a training step on one device; `peak` is what there is at most at once, less than the sum."""

    weights: int  # with buffers
    gradients: int
    optimizer: int
    copies: int  # of weights, rounded for the products of mixed precision
    activations: int  # kept for the backward pass, or, with recomputation, the inputs of the blocks
    logits: int  # all that has a number for each token of the vocabulary: the logits, their softmax, its gradient
    forward: int  # the most, at once, of all that is made until the first gradient of a weight is there
    backward: int  # the same from then on, gradients among it

    @property
    def passes(self) -> int:
        """The most, at once, besides weights and optimizer."""
        return max(self.forward, self.backward, self.gradients)

    @property
    def peak(self) -> int:
        """The most of all, at once."""
        return self.weights + self.optimizer + self.passes

    def sharded(self, devices: int, gathered: int) -> int:
        """Return the bytes where weights, gradients and optimizer state are spread over devices (FSDP).

        `gathered` bytes of weights and gradients are whole for a time. This is a sum, no peak: somewhat too much.
        """
        shards = -(-(self.weights + self.gradients + self.optimizer) // devices)
        return shards + gathered + self.copies + self.activations + self.logits

    def deeper(self, other: StepMemory, layers: float) -> StepMemory:
        """Return the bytes of a model that is `layers` times as far from this one as the `other` one is.

        All of them grow by as much for each layer.
        """
        own, others = (dataclasses.astuple(each) for each in (self, other))
        return StepMemory(*(round(a + (b - a) * layers) for a, b in zip(own, others, strict=True)))


@contextlib.contextmanager
def without_numbers() -> Iterator[None]:
    """Make all tensors within have a shape, a type and a device, and no numbers."""
    with FakeTensorMode(), _AnyNumber():
        yield


def step_memory(
    model: nn.Module,
    forward: Callable[[], Tensor],
    build_optimizer: Callable[[], Any],
    vocab_size: int,
    several: bool = False,
) -> StepMemory:
    """Return the bytes of a step of one micro-batch or several, each of them a loss by `forward` and its backward pass.

    All is within `without_numbers`, where the model was made too.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    shapes = {p.shape for p in model.parameters() if p.ndim > 1}
    with _Live(vocab_size, shapes) as live:
        hooks = [p.register_post_accumulate_grad_hook(live.gradient_is_there) for p in trained]  # type: ignore[no-untyped-call]
        loss = forward()
        kept, copies = live.bytes - live.of["logits"], live.of["weights"]
        loss.backward()  # type: ignore[no-untyped-call]
        if several:  # there are gradients already
            del loss
            live.is_forward = True
            loss = forward()
            loss.backward()  # type: ignore[no-untyped-call]
        for hook in hooks:
            hook.remove()
    optimizer = build_optimizer()
    optimizer.step()
    state = [t for each in optimizer.state.values() for t in each.values() if isinstance(t, Tensor)]
    everything = [*model.parameters(), *model.buffers()]
    return StepMemory(
        weights=_bytes(everything),
        gradients=_bytes([p.grad for p in trained if p.grad is not None]),
        optimizer=_bytes(state),
        copies=copies,
        activations=kept - copies,
        logits=live.most_logits,
        forward=live.most[True],
        backward=live.most[False],
    )


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class _AnyNumber(TorchFunctionMode):
    """Answer what an optimizer asks of numbers that are not there: the size of its state does not depend on them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return 1.0 if func is Tensor.item else func(*args, **(kwargs or {}))


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the memory of all tensors that are made within it, until they are freed."""

    def __init__(self, vocab_size: int, shapes: set[torch.Size]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocab_size, self.shapes = vocab_size, shapes
        self.bytes = self.most_logits = 0
        self.is_forward, self.most = True, {True: 0, False: 0}
        self.of = {"logits": 0, "weights": 0, "rest": 0}
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {each.untyped_storage()._cdata for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and each.untyped_storage()._cdata not in given:
                self._made(each, func is torch.ops.aten._to_copy.default)
        return made

    def gradient_is_there(self, _: Tensor) -> None:
        """Note that the backward pass has come to the weights."""
        self.is_forward = False

    def _made(self, tensor: Tensor, is_copy: bool) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self.alive:
            return
        of = "weights" if is_copy and tensor.shape in self.shapes else "rest"
        if tensor.ndim > 1 and tensor.shape[-1] == self.vocab_size and tensor.shape not in self.shapes:
            of = "logits"
        self.alive.add(storage._cdata)
        self._add(of, storage.nbytes())
        weakref.finalize(storage, self._freed, storage._cdata, of, storage.nbytes())

    def _freed(self, storage: int, of: str, size: int) -> None:
        self.alive.discard(storage)
        self._add(of, -size)

    def _add(self, of: str, size: int) -> None:
        self.bytes += size
        self.of[of] += size
        self.most[self.is_forward] = max(self.most[self.is_forward], self.bytes)
        self.most_logits = max(self.most_logits, self.of["logits"])
