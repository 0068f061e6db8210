"""Show the preparation of text on the console: how far it is, and what came out."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import TransferSpeedColumn as MegabytesPerSecond
from rich.table import Table

from gptlab.data.tokens.prepare import COUNTS, Watch


@contextlib.contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """Show a bar with MB/s for each thing that is done, gone at the end; nothing where there is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn(), MegabytesPerSecond())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("reading", total=None)

        def begin(what: str, size: int) -> None:
            bar.reset(task, description=what, total=size or None)

        yield Watch(begin, lambda size: bar.advance(task, size))


def sizes(result: dict[str, Any]) -> Table:
    """Return the sizes of a corpus (`Corpus.sizes`) as a table; `?` where they are not known."""
    table = Table("", *COUNTS)
    for part, name in {"train": "training", "val": "held out"}.items():
        figures = (result[part][key] for key in COUNTS)
        table.add_row(name, *("?" if figure is None else f"{figure:,}" for figure in figures))
    return table
