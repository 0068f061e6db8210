"""Run a continuous batch in a thread of its own, which other threads give texts to write."""

import threading
from collections.abc import Iterable

from gptlab.decoding.continuous import ContinuousBatch, Row


class Closed(RuntimeError):
    """The end of an engine: texts that are not finished are given up."""


class Engine:
    """A thread that steps a batch as long as there are texts; `submit` and `cancel` may be called by any thread.

    Listeners are called in the engine's thread. `stop` ends it after its step.
    """

    def __init__(self, batch: ContinuousBatch) -> None:
        self._batch = batch
        self._given: list[Row] = []
        self._changed = threading.Condition()
        self._closed = False
        self._given_up = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, rows: Iterable[Row]) -> None:
        """Give texts to write, behind all that wait; raises Closed."""
        with self._changed:
            if self._closed:
                raise Closed("the server is stopping")
            self._given += rows
            self._changed.notify()

    def cancel(self, rows: Iterable[Row]) -> None:
        """Give texts up: they leave the batch before its next step, and their listeners hear nothing of it."""
        with self._changed:
            for row in rows:
                row.cancelled = True
            self._changed.notify()

    def counts(self) -> tuple[int, int]:
        """Return how many texts are being written, and how many wait."""
        with self._changed:
            return len(self._batch.running), len(self._batch.waiting) + len(self._given)

    def stop(self) -> None:
        """Take no more texts, fail those that are not finished with Closed, and end the thread, after its step."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def close(self) -> int:
        """Stop, wait for the end of the thread, and return how many texts were given up."""
        self.stop()
        self._thread.join()
        return self._given_up

    def _run(self) -> None:
        busy = False
        while True:
            with self._changed:
                while not (busy or self._given or self._closed):
                    self._changed.wait()
                given, self._given = self._given, []
                if self._closed:
                    break
                self._batch.add(given)
            try:
                busy = self._batch.step()
            except Exception as error:
                self._batch.fail_all(error)
                busy = False
        self._batch.add(given)
        self._given_up = self._batch.fail_all(Closed("the server is stopping"))
