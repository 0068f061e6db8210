"""Run a function in several processes, in order, with few results in memory at once."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[int], None]  # receives the number of bytes just done

ALONE = 1 << 23  # bytes that are not worth a second process


class Workers:
    """Processes that start when they are first needed; `map` may be called several times."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the function's result for each item, in order; the function is a module's, so that it can be sent."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # threads of this process must not be forked
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=_start)
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(self._pool.submit(function, item))
            if len(pending) > 2 * self.processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def stop(self) -> None:
        """End the processes; what they have not begun is left undone."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def workers(processes: int) -> Iterator[Workers]:
    """Yield processes that end with this context."""
    pool = Workers(processes)
    try:
        yield pool
    finally:
        pool.stop()


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def is_worth_it(size: int, pool: Workers) -> bool:
    """Tell whether there are several processes, and enough bytes for two of them."""
    return pool.processes > 1 and size >= 2 * ALONE
