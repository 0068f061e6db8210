"""A disk that is full or cannot be written, in mid-run: the run says so, and what it had is whole and goes on."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab.config import compose
from gptlab.runs.checkpoint_file import is_whole
from gptlab.runs.run_dir import RunDir
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.faults.test_kills import ASK, left
from tests.forked import in_fork

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
CALLS = {"sync": (os, "fsync"), "rename": (os, "replace")}
LATER = (20, 45)  # the call from which on all fail
CASES = [(error, call, later) for error in ERRORS for call in CALLS for later in LATER]


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_fails_in_mid_run(call: str, texts: str, some: Callable[..., list[tuple[int, int]]]) -> None:
    """Each error comes early or late in a run; with --faults=200 both."""
    config = compose("train", [*tiny_overrides(texts), *ASK])
    begin: Callable[[], Any] = lambda: train(config)  # noqa: E731
    assert in_fork(begin) == (0, "")
    Path("run").rename("whole")
    turns = [(error, LATER[(number + turn) % 2]) for number, error in enumerate(ERRORS) for turn in range(2)]
    for error, later in some(turns, 2):
        in_fork(lambda error=error, later=later: _failing(error, call, later, begin))  # type: ignore[misc]
        for path in Path("run/checkpoints").glob("*.ckpt"):
            assert is_whole(path)
        if any(Path("run/checkpoints").glob("*.ckpt")) and RunDir(Path("run")).status() != "finished":
            assert in_fork(lambda: train(compose("train", ["run_dir=run", "resume=run"], run="run"))) == (0, "")
            assert left(Path("run")) == left(Path("whole"))
        Path("run").rename(f"done {error} {later}")


def _failing(error: int, call: str, later: int, work: Callable[[], Any]) -> None:
    owner, name = CALLS[call]
    whole, count = getattr(owner, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count >= later:
            raise OSError(error, os.strerror(error))
        return whole(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, failing)
        work()
