"""Write checkpoint files whole or not at all, with checksums; keep the newest few, and tell which are still whole."""

import hashlib
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from gptlab.distributed.ranks import Ranks
from gptlab.errors import reason
from gptlab.files import sync_folder, write_atomically

SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it


class CheckpointFiles(TorchCheckpointIO):
    """Write Lightning's checkpoints safely: a temporary file in the same directory, flushed, then renamed.

    A full disk, or a failure like it, leaves what was there; `failure` then says why.
    """

    failure: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(f".{path.name}-{os.getpid()}")
        self.failure = None
        try:
            with work.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            _put(work, path, _sha256(work))
        except (OSError, RuntimeError) as error:  # torch makes the second of the first
            self.failure = reason(error.__context__ or error)
            warnings.warn(f"{path} cannot be written ({self.failure}); what was there is kept", stacklevel=1)
        finally:
            work.unlink(missing_ok=True)


class Checkpoints:
    """Write `step-N.ckpt` when one is due, and let `last.ckpt` be the newest and `best.ckpt` the best of them.

    A checkpoint is written at the end of a step, when all else that is due there was done, and remembers that it was.
    """

    def __init__(
        self, folder: Path, every_n_steps: int | None, every_n_minutes: float | None, keep_last: int, ranks: Ranks
    ) -> None:
        self.folder, self.every_n_steps, self.every_n_minutes = folder, every_n_steps, every_n_minutes
        self.keep_last, self.ranks = keep_last, ranks
        self.saved_step = 0
        self._since = time.monotonic()

    def start(self, step: int) -> None:
        """Begin to count steps and minutes."""
        self.saved_step, self._since = step, time.monotonic()

    def due(self, step: int) -> bool:
        """Tell whether the end of a step writes a checkpoint by its count or by the clock; all ranks must ask."""
        due = bool(self.every_n_steps) and step % int(self.every_n_steps or 1) == 0
        if self.every_n_minutes:
            due |= self.ranks.any(time.monotonic() - self._since >= 60 * self.every_n_minutes)
        return due

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint, on all ranks; only if there were steps since the last one."""
        step = trainer.global_step
        self._since = time.monotonic()
        if step == self.saved_step:
            return
        path = self.folder / f"step-{step}.ckpt"
        trainer.save_checkpoint(path)
        self.saved_step = step
        if trainer.is_global_zero and path.exists():
            _link(path, self.folder / "last.ckpt")
            for old in by_step(self.folder)[self.keep_last :]:
                old.unlink()

    def mark_best(self, trainer: L.Trainer) -> None:
        """Let the checkpoint that was just written be `best.ckpt`."""
        path = self.folder / f"step-{trainer.global_step}.ckpt"
        if trainer.is_global_zero and path.exists():
            _link(path, self.folder / "best.ckpt")

    def restore_best(self, step: int | None, earlier: Path | None) -> bool:
        """Let `best.ckpt` be that of a step again: a kill may have come before it was marked, a branch begins without
        one. `earlier` is the folder of the run that a branch comes from. False if it is nowhere."""
        best = self.folder / "best.ckpt"
        if step_of(best) == step or (step is None and best.exists()):
            return True
        folders = [self.folder, *([earlier] if earlier else [])]
        for path in [folder / name for folder in folders for name in (f"step-{step}.ckpt", "best.ckpt")]:
            if step_of(path) == step:
                _link(path, best)
                return True
        best.unlink(missing_ok=True)
        return False


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that killed saves have left; only for the one process that holds the run."""
    for path in [*folder.glob(".*.ckpt-*"), *folder.glob(".last-*"), *folder.glob(".best-*")]:
        path.unlink(missing_ok=True)


def step_of(path: Path) -> int | None:
    """Return the step at which a checkpoint was made; None where there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return int(torch.load(path, map_location="meta", weights_only=True, mmap=True)["global_step"])
    except Exception:  # whatever a damaged file makes of torch.load
        return None


def by_step(folder: Path) -> list[Path]:
    """Return all step-N.ckpt, the newest first."""
    return sorted(folder.glob("step-*.ckpt"), key=lambda path: -int(path.stem.removeprefix("step-")))


def is_whole(path: Path) -> bool:
    """Tell whether a checkpoint is what was written: its digest is in the list, or there is no list and it loads."""
    if recorded := _sums(path.parent):
        return path.is_file() and _sha256(path) in {digest for digests in recorded.values() for digest in digests}
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged file makes of torch.load
        return False
    return True


def _link(path: Path, name: Path) -> None:
    """Let `name` be the same file as a checkpoint `path`, in one step."""
    work = name.with_name(f".{name.stem}-{os.getpid()}")
    work.unlink(missing_ok=True)
    try:
        os.link(path, work)
    except OSError:  # a file system without links
        shutil.copyfile(path, work)
    recorded = _sums(path.parent).get(path.name)
    _put(work, name, recorded[-1] if recorded else _sha256(work))


def _put(work: Path, path: Path, digest: str) -> None:
    """Rename `work` to `path`; whenever this is interrupted, every file that is there has its digest in the list."""
    folder, sums = path.parent, _sums(path.parent)
    _write_sums(folder, {**sums, path.name: [*sums.get(path.name, []), digest]})
    os.replace(work, path)
    sync_folder(folder)
    _write_sums(folder, {**{name: d for name, d in sums.items() if (folder / name).exists()}, path.name: [digest]})


def _sums(folder: Path) -> dict[str, list[str]]:
    """Return the digests of the list, by name."""
    path, found = folder / SUMS, dict[str, list[str]]()
    for line in path.read_text().splitlines() if path.exists() else []:
        digest, _, name = line.partition("  ")
        found.setdefault(name, []).append(digest)
    return found


def _write_sums(folder: Path, sums: dict[str, list[str]]) -> None:
    lines = [f"{digest}  {name}\n" for name, digests in sums.items() for digest in digests]
    write_atomically(folder / SUMS, "".join(lines).encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
