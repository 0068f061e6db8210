"""Show the progress of the preparation of text on the console."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TransferSpeedColumn as MegabytesPerSecond

from gptlab.data.tokens.surveys import Watch


@contextlib.contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """Show a bar with MB/s for each task, removed at the end; nothing if there is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), MegabytesPerSecond())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("reading", total=None)

        def begin(what: str, size: int) -> None:
            bar.reset(task, description=what, total=size or None)

        yield Watch(begin, lambda size: bar.advance(task, size))
