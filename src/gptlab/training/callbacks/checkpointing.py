"""Checkpoint files: whole or not there, with a checksum, the newest few kept; and which of them are still whole."""

import contextlib
import hashlib
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from gptlab.distributed.ranks import Ranks
from gptlab.errors import reason
from gptlab.files import sync_folder, write_atomically

SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to write a checkpoint, made safe: a temporary file in the same directory, flushed, renamed.

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


class Checkpoints(Callback):
    """`step-N.ckpt` every so many steps or minutes, when asked to stop, and at the end; `last.ckpt` is the newest.

    Where a step is validated too, its checkpoint comes after that, so that nothing is lost of either.
    """

    def __init__(
        self, folder: Path, every_n_steps: int | None, every_n_minutes: float | None, keep_last: int, ranks: Ranks
    ) -> None:
        self.folder, self.every_n_steps, self.every_n_minutes = folder, every_n_steps, every_n_minutes
        self.keep_last, self.ranks = keep_last, ranks
        self._seen = self._saved = 0  # steps
        self._since = time.monotonic()
        self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._seen = self._saved = trainer.global_step
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._seen:  # within an accumulation
            return
        self._seen = step
        if self.every_n_steps and step % self.every_n_steps == 0:
            self._due = True
        if self.every_n_minutes:
            self._due |= self.ranks.any(time.monotonic() - self._since >= 60 * self.every_n_minutes)
        if self._due and step * trainer.accumulate_grad_batches % int(trainer.val_check_interval or 1):
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._due:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Ctrl-C within a step; of several ranks some may be gone by then, so these save only where all have agreed."""
        if isinstance(exception, KeyboardInterrupt | SystemExit) and trainer.world_size == 1:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """On all ranks; only if there were steps since the last time."""
        step = trainer.global_step
        self._due, self._since = False, time.monotonic()
        if step == self._saved:
            return
        path = self.folder / f"step-{step}.ckpt"
        trainer.save_checkpoint(path)
        self._saved = step
        if trainer.is_global_zero and path.exists():
            work = self.folder / f".last-{os.getpid()}"
            with contextlib.suppress(FileNotFoundError):
                work.unlink()
            try:
                os.link(path, work)
            except OSError:  # a file system without links
                shutil.copyfile(path, work)
            _put(work, self.folder / "last.ckpt", _sums(self.folder)[path.name][-1])
            for old in by_step(self.folder)[self.keep_last :]:
                old.unlink()


def best(folder: Path) -> ModelCheckpoint:
    """`best.ckpt` by val/loss."""
    return ModelCheckpoint(
        folder, "best", monitor="val/loss", save_on_train_epoch_end=False, enable_version_counter=False
    )


def by_step(folder: Path) -> list[Path]:
    """All step-N.ckpt, the newest first."""
    return sorted(folder.glob("step-*.ckpt"), key=lambda path: -int(path.stem.removeprefix("step-")))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written: its digest is in the list, or, where there is no list, it loads."""
    if recorded := _sums(path.parent):
        return path.is_file() and _sha256(path) in {digest for digests in recorded.values() for digest in digests}
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged file makes of torch.load
        return False
    return True


def _put(work: Path, path: Path, digest: str) -> None:
    """Let `work` be `path`; whenever it ends, every file that is there has its digest in the list."""
    folder, sums = path.parent, _sums(path.parent)
    _write_sums(folder, {**sums, path.name: [*sums.get(path.name, []), digest]})
    os.replace(work, path)
    sync_folder(folder)
    _write_sums(folder, {**{name: d for name, d in sums.items() if (folder / name).exists()}, path.name: [digest]})


def _sums(folder: Path) -> dict[str, list[str]]:
    """Digests of the list, by name."""
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
