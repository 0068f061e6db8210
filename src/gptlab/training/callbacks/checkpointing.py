"""Write checkpoint files completely or not at all, with checksums; keep the newest few, and find the undamaged ones."""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gptlab.checksums import checksums, digest, write_checksums
from gptlab.distributed.ranks import Ranks
from gptlab.errors import UserError, reason
from gptlab.files import UNFINISHED, sync, sync_folder
from gptlab.runs.checkpoint_file import read_checkpoint
from gptlab.training.lightning_internals import from_rank_0, write_failure


class CheckpointFiles(TorchCheckpointIO):
    """A writer of Lightning's checkpoints: to a temporary file in the same directory, flushed, then renamed.

    A full disk, or a failure like it, leaves the earlier files as they were; `failure` then has the reason.
    """

    failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        work = _work(path)
        self.failure = None
        try:
            with work.open("wb") as file:
                torch.save(checkpoint, file)
                sync(file)
            _put(work, path, digest(work))
        except (OSError, RuntimeError) as error:  # torch makes the second of the first
            self.failure = reason(error.__context__ or error)
            warnings.warn(f"{path} cannot be written ({self.failure}); what was there is kept", stacklevel=1)
        finally:
            work.unlink(missing_ok=True)


class Checkpoints:
    """The checkpoints of a run: `step-N.ckpt` when one is due, `last.ckpt` for the newest, `best.ckpt` for the best.

    A checkpoint is written at the end of a step, after everything else that is due there, and records that it was done.
    A regular one is written whether or not the run is stopped. One that a stop asked for is removed when the next
    regular one exists, so that a run that was stopped keeps the same files as one that was not. Those of the steps
    `kept` are due besides, and are never removed.
    """

    def __init__(
        self,
        folder: Path,
        every_n_steps: int | None,
        every_n_minutes: float | None,
        keep_last: int,
        ranks: Ranks,
        kept: Collection[int] = (),
    ) -> None:
        self.folder, self.every_n_steps, self.every_n_minutes = folder, every_n_steps, every_n_minutes
        self.keep_last, self.ranks, self.kept = keep_last, ranks, frozenset(kept)
        self.saved_step = 0
        self.regular: list[int] | None = (
            None  # steps of the newest regular checkpoints; None: not recorded by gptlab 0.1
        )
        self._since = time.monotonic()

    def start(self, step: int) -> None:
        """Begin to count steps and minutes."""
        self.saved_step, self._since = step, time.monotonic()
        if self.regular is None:
            found = [number for number in map(_number, reversed(by_step(self.folder))) if number <= step]
            self.regular = found[-self.keep_last :]

    def due(self, step: int) -> bool:
        """Return whether this end of a step writes a checkpoint, by count or by the clock; all ranks must call it."""
        due = step in self.kept or (bool(self.every_n_steps) and step % int(self.every_n_steps or 1) == 0)
        if self.every_n_minutes:
            due |= self.ranks.any(time.monotonic() - self._since >= 60 * self.every_n_minutes)
        return due

    def save(self, trainer: L.Trainer, regular: bool) -> bool:
        """Write a checkpoint, on all ranks, if there were steps since the last one; all ranks learn whether it exists.

        Metrics and samples of earlier steps are on disk before it is.
        """
        step = trainer.global_step
        self._since = time.monotonic()
        if step == self.saved_step:
            return True
        self.regular = self.regular or []
        if regular:
            self.regular = [*self.regular, step][-self.keep_last :]
        for logger in trainer.loggers:
            logger.save()
        path = self.folder / f"step-{step}.ckpt"
        trainer.save_checkpoint(path)
        self.saved_step = step
        written = trainer.is_global_zero and write_failure(trainer) is None
        if written:
            _link(path, self.folder / "last.ckpt")
            self._keep({step, *self.regular}, sys.maxsize)
        return bool(from_rank_0(trainer, written))

    def mark_best(self, trainer: L.Trainer) -> None:
        """Make the checkpoint that was just written `best.ckpt`."""
        if trainer.is_global_zero:
            _link(self.folder / f"step-{trainer.global_step}.ckpt", self.folder / "best.ckpt")

    def restore_best(self, step: int | None) -> bool:
        """Make `best.ckpt` that of a step again, which a kill may have prevented; returns False if it does not exist.

        A `step` of None is any: runs of gptlab 0.1 do not record it.
        """
        best, saved = self.folder / "best.ckpt", self.folder / f"step-{step}.ckpt"
        if best.exists() and step in (None, step_of(best)):
            return True
        if step is not None and step_of(saved) == step:
            _link(saved, best)
            return True
        best.unlink(missing_ok=True)
        return False

    def remove_old(self, step: int) -> None:
        """Remove the checkpoints that a kill kept the run from removing."""
        self._keep({step, *(self.regular or [])}, step)

    def last_regular(self) -> Path | None:
        """Return the newest regular checkpoint: that of a run that was never stopped."""
        paths = [self.folder / f"step-{step}.ckpt" for step in reversed(self.regular or [])]
        return next((path for path in paths if path.exists()), None)

    def _keep(self, steps: set[int], until: int) -> None:
        for path in by_step(self.folder):
            if _number(path) not in steps | self.kept and _number(path) <= until:
                path.unlink()


def go_on_from(checkpoint: Path, step: int, folder: Path) -> None:
    """Make a run's `last.ckpt` the checkpoint from which it continues, one of its own or, for a branch, of another run.

    A branch also gets the best one that the checkpoint records.
    """
    if checkpoint.parent.resolve() != folder.resolve():
        _link(checkpoint, folder / f"step-{step}.ckpt")
        known = read_checkpoint(checkpoint, "meta")
        best = known.get("callbacks", {}).get("EndOfStep", {}).get("best") or (None, None)
        for path in (checkpoint.parent / name for name in (f"step-{best[1]}.ckpt", "best.ckpt")):
            if path.exists() and best[1] in (None, step_of(path)):
                _link(path, folder / "best.ckpt")
                break
    if checkpoint.resolve() != (folder / "last.ckpt").resolve():
        _link(checkpoint, folder / "last.ckpt")


def step_of(path: Path) -> int | None:
    """Return the step at which a checkpoint was made; None if there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return int(read_checkpoint(path, "meta")["global_step"])
    except (UserError, LookupError, TypeError, ValueError):
        return None


def by_step(folder: Path) -> list[Path]:
    """Return all step-N.ckpt, the newest first."""
    return sorted((path for path in folder.glob("step-*.ckpt") if path.stem[5:].isdecimal()), key=_number, reverse=True)


def _number(path: Path) -> int:
    """Return the N of a step-N.ckpt."""
    return int(path.stem.removeprefix("step-"))


def _link(path: Path, name: Path) -> None:
    """Link `name` to the same file as a checkpoint `path`, in one step."""
    work = _work(name)
    work.unlink(missing_ok=True)
    try:
        os.link(path, work)
    except OSError:  # a file system without links
        shutil.copyfile(path, work)
    known = _listed(path.parent).get(path.name, [])  # two where a kill came between the list and the name
    _put(work, name, known[0] if len(known) == 1 else digest(work))


def _work(path: Path) -> Path:
    """Return the temporary name under which a file is written before it becomes `path`."""
    return path.with_name(f".{path.name}-{os.getpid()}{UNFINISHED}")


def _put(work: Path, path: Path, found: str) -> None:
    """Rename `work`, whose digest was found, to `path`; whenever this is interrupted, every file has its digest in the
    list."""
    folder, listed = path.parent, _listed(path.parent)
    write_checksums(folder, {**listed, path.name: [*listed.get(path.name, []), found]})
    os.replace(work, path)
    sync_folder(folder)
    there = {name: each for name, each in listed.items() if (folder / name).exists()}
    write_checksums(folder, {**there, path.name: [found]})


def _listed(folder: Path) -> dict[str, list[str]]:
    """Return the list of checksums of a folder; a damaged one says nothing of the files that are there."""
    try:
        return checksums(folder)
    except ValueError:
        return {}
