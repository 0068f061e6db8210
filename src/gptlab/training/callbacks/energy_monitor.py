"""Sum up the energy that a run takes, where the machine tells."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from gptlab.training.energy import JOULES_PER_KWH, Counter

EVERY = 10.0  # seconds from one reading to the next; a counter of 262 kJ begins again after some minutes


class EnergyMonitor(Callback):
    """Add up what the counters say from the first step to the last; `find` finds them when training begins.

    The sum of a resumed run goes on from its checkpoint. There is none where a part of the run was not measured: on a
    machine without counters, on several machines, or before a checkpoint that has none.
    """

    def __init__(self, find: Callable[[L.Trainer], Sequence[Counter]]) -> None:
        self._find, self._counters = find, list[Counter]()
        self._joules: float | None = None  # None: not known
        self._read = 0.0  # when the counters were read

    @property
    def kwh(self) -> float | None:
        """The energy of the run so far; None where it is not known."""
        return None if self._joules is None else self._joules / JOULES_PER_KWH

    def state_dict(self) -> dict[str, Any]:
        self._add()
        return {"joules": self._joules}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        joules = state_dict.get("joules")
        self._joules = float(joules) if isinstance(joules, int | float) else None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        alone = trainer.is_global_zero and trainer.num_nodes == 1
        self._counters = list(self._find(trainer)) if alone else []
        if trainer.global_step == 0:
            self._joules = 0.0
        if not self._counters:
            self._joules = None
        self._read = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._read >= EVERY:
            self._add()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._add()

    def _add(self) -> None:
        """Add what was taken since the last reading; a counter that cannot be read any more leaves no sum."""
        self._read = time.monotonic()
        if self._joules is None or not self._counters:
            return
        try:
            self._joules += sum(counter.taken() for counter in self._counters)
        except (OSError, ValueError):
            self._joules = None
