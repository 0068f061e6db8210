"""Time the parts of a training step in Lightning's own loop: data, forward, backward, optimizer, the rest."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from gptlab.planning.limits import wait_for_device
from gptlab.training.lightning_internals import datamodule_of
from gptlab.training.module import GPTModule

DATA, FORWARD, BACKWARD, OPTIMIZER, AVERAGE, REST = PARTS = (
    *("data", "forward", "backward"),
    *("optimizer", "weight_average", "rest"),
)
WARM_UP = 3  # steps before any is timed
MOST = 400  # steps that are timed


class Measured(Exception):
    """The end of a run whose steps have been timed: it is raised before anything else is due."""


@dataclass
class Step:
    """A step that was timed."""

    seconds: dict[str, float]  # by part; they add up to the whole step
    tokens: int
    logged: bool  # whether the log of the step before is in it, which is written when that has ended

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass
class StepParts(Callback):
    """A clock that runs along with training, and gives the time since it was last read to the part that has just ended.

    After some steps it takes the time up to `seconds`, and of as many steps as are logged together, or a multiple, so
    that their log is a part of them; then it raises Measured. With `waits` the device is waited for at the end of each
    part, without which a GPU has only been told what to do; without it all but the wait for data is one part, the rest.
    """

    seconds: float
    log_every: int
    waits: bool = True
    steps: list[Step] = field(default_factory=list)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert isinstance(pl_module, GPTModule)
        self._data, self._device = datamodule_of(trainer), pl_module.device
        self._step, self._warm, self._logged = trainer.global_step, 0, False
        if self.waits:
            pl_module.loss.register_forward_pre_hook(lambda *_: self._ends(REST))
            pl_module.loss.register_forward_hook(lambda *_: self._ends(FORWARD))
            trainer.optimizers[0].register_step_post_hook(lambda *_: self._ends(OPTIMIZER))
            self._time_average(pl_module.average)
        self._began = time.perf_counter()
        self._begin()

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._ends(FORWARD)
        self._zeroing = True

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self._ends(OPTIMIZER if self._zeroing else FORWARD)
        self._zeroing = False

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._ends(BACKWARD)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._ends(REST)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:  # in the middle of gradient accumulation
            return
        self._step = trainer.global_step
        timed = len(self.steps) + 1
        if not self.waits and (self._warm < WARM_UP or timed % self.log_every == 0):  # as training itself does
            wait_for_device(self._device)
        self._ends(REST)
        waited = self._data.seconds_waited - self._waited
        self._parts[REST] -= waited
        self._parts[DATA] += waited
        passed = self._last - self._began
        if self._warm < WARM_UP:
            self._warm = WARM_UP if passed >= self.seconds / WARM_UP else self._warm + 1
            self._began = self._last if self._warm == WARM_UP else self._began
        else:
            self.steps.append(Step(self._parts, batch.step_tokens or 0, self._logged))
            self._end_in_time(passed, even=timed % self.log_every == 0)
        self._logged = pl_module.logs_at(self._step)
        self._begin()

    def _end_in_time(self, passed: float, even: bool) -> None:
        late = passed >= self.seconds and (even or passed >= 1.5 * self.seconds)
        if late or (even and len(self.steps) >= MOST):
            raise Measured

    def _begin(self) -> None:
        self._parts, self._zeroing = dict.fromkeys(PARTS, 0.0), False
        self._waited, self._last = self._data.seconds_waited, time.perf_counter()

    def _ends(self, part: str) -> None:
        """Give the time since the last call to a part."""
        if self.waits:
            wait_for_device(self._device)
        now = time.perf_counter()
        self._parts[part if self.waits else REST] += now - self._last
        self._last = now

    def _time_average(self, average: Any) -> None:
        """Time the update of the averaged weights, where there are any."""
        if not average:
            return
        update: Callable[[torch.nn.Module, int], None] = average.update

        def timed(gpt: torch.nn.Module, step: int) -> None:
            self._ends(REST)
            update(gpt, step)
            self._ends(AVERAGE)

        average.update = timed
