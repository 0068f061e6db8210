"""The verb `train`; torch is imported when nothing is left that is wrong without it."""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from gptlab.distributed.processes import declared_rank
from gptlab.registry import command
from gptlab.training.config import TrainConfig
from gptlab.training.waiting import waiting


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Leave garbage alone while modules are imported: they make a million objects, and hardly any of it is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@command
def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a model; everything about the run is written into one run directory."""
    from gptlab.training.preflight import require_possible

    require_possible(config)
    with waiting(Console(quiet=declared_rank() != 0), "loading torch"), _without_collecting():
        from gptlab.training.run import train

    return train(config)
