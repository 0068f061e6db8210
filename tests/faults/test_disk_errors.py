"""A disk that is full, read-only or broken from some instant of a run on: one line, exit code 1, what was there is whole."""

import errno
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.commands.main import main
from tests.faults.instants import Instant, watched
from tests.faults.scratch import Scratch, asked, tiny
from tests.forked import in_fork

CALLS: dict[str, tuple[Any, str]] = {
    "rename": (os, "replace"),
    "link": (os, "link"),
    "folder": (Path, "mkdir"),
    "sync": (os, "fsync"),
    "remove": (Path, "unlink"),
}
RUN = ["train", *tiny(), "run_dir=new", "checkpoint.every_n_steps=2"]
PLACES = 10  # among the instants of a run


@pytest.mark.slow
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_from_some_instant_on(fault: int, scratch: Scratch, capfd: pytest.CaptureFixture[str]) -> None:
    with scratch.entered():
        instants: list[Instant] = []
        with watched(instants.append, CALLS):
            assert main(RUN) == 0
        shutil.rmtree("new")
        places = range(len(instants))[:: max(1, len(instants) // PLACES)]
        faults = [place for place in places if not _fails_well(fault, place, capfd)]
    assert len(places) >= PLACES and not faults


def _fails_well(fault: int, place: int, capfd: pytest.CaptureFixture[str]) -> bool:
    count = 0

    def act(_: Instant) -> None:
        nonlocal count
        count += 1
        if count > place:
            raise OSError(fault, os.strerror(fault), "new")

    with watched(act, CALLS):
        answer = asked(RUN, capfd)
    kept = list(Path("new").rglob("*.ckpt"))
    for path in kept:
        torch.load(path, weights_only=True)
    shutil.rmtree("new", ignore_errors=True)
    shutil.rmtree("outputs", ignore_errors=True)
    well = answer.code == 1 and answer.is_clean and len(answer.errors) == 1
    if not well:
        print(place, answer)
    return well


@pytest.mark.slow
@pytest.mark.parametrize("most", [100, 20_000])  # bytes of a file: config.yaml is larger, or checkpoints alone are
def test_files_that_cannot_be_as_large(most: int, scratch: Scratch) -> None:
    """The limit of the kernel holds for torch's own writer too."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert main(RUN) == 1

    with scratch.entered():
        code, said = in_fork(limited)
        shutil.rmtree("new", ignore_errors=True)
        shutil.rmtree("outputs", ignore_errors=True)
    assert code == 0, said


def test_outputs_that_cannot_be_made(scratch: Scratch, capfd: pytest.CaptureFixture[str]) -> None:
    """A run elsewhere goes on without outputs/latest, and says so; one of outputs/ is refused."""
    with scratch.entered():
        Path("outputs").symlink_to("nowhere")
        before = scratch.tree()
        refused = asked(["train", *tiny()], capfd)
        assert refused.code == 2 and refused.err.count("\n") == 1 and scratch.tree() == before
        assert "outputs is a link to nothing; give another place" in refused.err
        answer = asked(["train", *tiny(), "run_dir=new", "budget.steps=1"], capfd)
        assert answer.code == 0 and answer.is_clean and Path("new/summary.json").is_file()
        assert answer.err.startswith("outputs/latest cannot point to this run (")
        shutil.rmtree("new")
        Path("outputs").unlink()
