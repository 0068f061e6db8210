"""Estimate the time that is left of a run: its steps, and the validations and checkpoints between them."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta

STEPS = 100  # the last ones, whose mean is the time of a step


class RemainingTime:
    """An estimate of what is left of a run of `steps`, from the mean time of each of its parts since its start.

        steps left * seconds a step + validations left * seconds a validation + checkpoints left * seconds a checkpoint

    A validation includes its samples. The first step is not counted: it includes compilation. Steps that are not alike
    take as long as the `work` that is done by their ends grows.
    """

    def __init__(
        self,
        steps: int,
        val_every_n_steps: int,
        checkpoint_every_n_steps: int | None = None,
        work: Callable[[int], float] = float,
    ) -> None:
        self.steps, self.work = steps, work
        self.every = {"validation": val_every_n_steps, "checkpoint": checkpoint_every_n_steps}
        self._step, self._done = 0, dict.fromkeys(self.every, 0)  # the last step; that of the last of each kind
        self._times: deque[tuple[int, float]] = deque(maxlen=STEPS + 1)  # (step, seconds of training until its end)
        self._pauses: dict[str, list[float]] = {kind: [] for kind in self.every}  # seconds of each

    def stepped(self, step: int, seconds: float) -> None:
        """Take the end of a step, with all seconds of training until then: without validations and checkpoints."""
        self._step = step
        self._times.append((step, seconds))

    def paused(self, kind: str, seconds: float) -> None:
        """Take the seconds of a validation or a checkpoint, after the present step."""
        self._done[kind] = self._step
        self._pauses[kind].append(seconds)

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Time a validation or a checkpoint."""
        start = time.perf_counter()
        yield
        self.paused(kind, time.perf_counter() - start)

    def left(self, kind: str) -> int:
        """Return how many validations or checkpoints are still to be done, that of the present step included.

        Both are due at the last step, besides the multiples of how often they are.
        """
        first, every = max(1, self._step + (self._done[kind] == self._step)), self.every[kind]
        if first > self.steps:
            return 0
        return 1 + (0 if every is None else (self.steps - 1) // every - (first - 1) // every)

    def seconds(self) -> float | None:
        """Return the seconds that are left, None until two steps are done; what was never timed is not in them."""
        if len(self._times) < 2:
            return None
        (first, before), (last, now) = self._times[0], self._times[-1]
        begin, done, end = (self.work(step) for step in (first, last, self.steps))
        found = (end - done) * (now - before) / (done - begin)
        return found + sum(self.left(kind) * sum(each) / len(each) for kind, each in self._pauses.items() if each)

    def text(self, deadline: float | None = None) -> str:
        """Return what is left in words: `0:02:03 left`, with the validations where none has been timed yet.

        `deadline` is the time of the monotonic clock at which the run stops in any case.
        """
        seconds = self.seconds()
        unknown = self.left("validation") if not self._pauses["validation"] else 0
        also = f" + {unknown} validation{'s' * (unknown > 1)}" if unknown else ""
        if deadline is not None:
            until = max(0.0, deadline - time.monotonic())
            if seconds is not None and until < seconds:
                return f"{_time(until)} left"
        return "" if seconds is None else f"{_time(seconds)} left{also}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
