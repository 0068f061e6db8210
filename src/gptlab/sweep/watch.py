"""Show how far the jobs of a sweep are that a cluster runs: other machines write the files that are read here."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from gptlab.errors import UserError
from gptlab.sweep.job import Job, jobs_in
from gptlab.sweep.live import DRAWN_EVERY, Board

GOING = ("running", "waiting")  # a cluster's job waits while its first process begins


@contextmanager
def watched(folder: Path, console: Console | None = None, every: float = DRAWN_EVERY) -> Iterator[None]:
    """Show the jobs of a sweep's directory from the moment they begin, in a thread, until the block ends.

    `every` is the time between two looks, in seconds.
    """
    board, over = Board([], console or Console()), threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, board, over, every), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(folder: Path, board: Board, over: threading.Event, every: float) -> None:
    known = dict[Path, Job]()
    with board.shown():
        while not over.wait(every):
            try:
                for job in jobs_in(folder):
                    _see(known.setdefault(job.path, job), board)
            except (UserError, OSError):  # a file that is being written; the sweep's end says what is wrong
                continue
            board.update()


def _see(job: Job, board: Board) -> None:
    """Tell the board what has become of a job."""
    status = job.result()["status"]
    if job not in board.jobs:
        board.add(job, None if status in GOING else status)
    if job in board.running and status not in GOING:
        board.end(job, status)
