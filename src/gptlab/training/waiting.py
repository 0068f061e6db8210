"""Say what a command waits for before it can begin; torch is not imported here."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Show what is waited for and for how long, and take it away at the end; in a log it is a line."""
    if not console.is_terminal:
        console.print(what, markup=False, highlight=False, soft_wrap=True)
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield
