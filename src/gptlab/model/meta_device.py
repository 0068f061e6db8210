"""Make modules on the meta device, where weights have shapes and no numbers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Make modules on the meta device, without drawing first weights.

    There are no numbers to draw; asked for normal ones all the same, PyTorch loads its compiler, which takes as long as
    half of `import torch`.
    """
    with torch.device("meta"), _WithoutInit():
        yield


class _WithoutInit(TorchFunctionMode):
    """A mode in which the functions of torch.nn.init leave their tensor as it is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or return the tensor that it was to fill."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
