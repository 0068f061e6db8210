"""Show the progress of the preparation of text on the console."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TransferSpeedColumn as MegabytesPerSecond

from gptlab.data.tokens.surveys import Watch

EVERY = 30.0  # seconds from one line of a log to the next, while one thing is done


@contextlib.contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """Show a bar with MB/s for each thing that is done, removed at the end; in a log these are lines."""
    if not console.is_terminal:
        lines = _Lines(console)
        yield Watch(lines.begin, lines.advance)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), MegabytesPerSecond())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("looking for what is prepared", total=None)

        def begin(what: str, size: int) -> None:
            bar.reset(task, description=what, total=size or None)

        yield Watch(begin, lambda size: bar.advance(task, size))


class _Lines:
    """The lines of a log: what begins, with its bytes, and how far it is where it takes long."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._what, self._size, self._done, self._told = "", 0, 0, 0.0

    def begin(self, what: str, size: int) -> None:
        self._what, self._size, self._done, self._told = what, size, 0, time.monotonic()
        self._say(f"{what}: {decimal(size)}" if size else what)

    def advance(self, size: int) -> None:
        self._done += size
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            total = f" of {decimal(self._size)}" if self._size else ""
            self._say(f"{self._what}: {decimal(self._done)}{total}")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
