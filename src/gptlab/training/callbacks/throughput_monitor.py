"""Measure training speed: tokens per second, model FLOPs utilization, and time spent waiting for data."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch.callbacks import Callback


class ThroughputMonitor(Callback):
    """Count the tokens that are read per second of training time, without padding; the share of the devices' FLOPs that
    they take (MFU: Chowdhery et al. 2022); and the share of that time in which the loop waited for data.

    The share of FLOPs is MFU (Chowdhery et al. 2022). Training time is all time between the first and the last step
    except within `paused`: validation, samples and checkpoints. `waited` returns the seconds spent waiting for data so
    far.
    """

    def __init__(self, waited: Callable[[], float] = lambda: 0.0) -> None:
        self.waited = waited
        self.share_per_token = 0.0  # of the FLOPs that all devices could do in a second
        self.seconds = 0.0  # of training time so far
        self.tokens = 0  # read so far by all ranks
        self._last_log = (0.0, 0, 0.0)  # (seconds, tokens, seconds waited)
        self._running_since = 0.0
        self._started, self._earlier_seconds = (
            time.perf_counter(),
            0.0,
        )  # of this start of the run; of all earlier starts

    @property
    def tokens_per_second(self) -> float:
        """The mean speed of the whole run."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def mfu(self) -> float:
        """The mean share of the devices' FLOPs of the whole run, by their peak as it is now."""
        return self.tokens_per_second * self.share_per_token

    @property
    def all_seconds(self) -> float:
        """Seconds of the whole run, all included except what a resumed run lost after its checkpoint."""
        return self._earlier_seconds + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "tokens": self.tokens, "all_seconds": self.all_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.tokens = float(state_dict["seconds"]), int(state_dict["tokens"])
        self._earlier_seconds = float(state_dict["all_seconds"])
        self._last_log = (self.seconds, self.tokens, self.waited())

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._started = time.perf_counter()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._running_since = time.perf_counter()

    def step(self, tokens: int) -> None:
        """Count the tokens of one step, over all ranks, and the time since the last step."""
        now = time.perf_counter()
        self.seconds += now - self._running_since
        self._running_since = now
        self.tokens += tokens

    def metrics(self) -> dict[str, float]:
        """Return the figures of the time since the last call."""
        seconds, tokens, waited = self._last_log
        passed = self.seconds - seconds
        speed = (self.tokens - tokens) / passed
        self._last_log = (self.seconds, self.tokens, self.waited())
        return {
            "train/tokens_per_second": speed,
            "train/mfu": speed * self.share_per_token,
            "train/data_wait": (self.waited() - waited) / passed,
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the context from training time."""
        self.seconds += time.perf_counter() - self._running_since
        yield
        self._running_since = time.perf_counter()
