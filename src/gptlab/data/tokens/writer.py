"""Write encoded text as shards: the ids, the document starts, and the loss mask."""

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gptlab.data.tokens.shards import MASK

Starts = np.ndarray[Any, np.dtype[np.uint32]]
Mask = np.ndarray[Any, np.dtype[np.uint8]]
BLOCK = 1 << 22  # bytes written at once


class Done(NamedTuple):
    """The encoded text of a job."""

    part: str
    ids: bytes  # of `dtype_for(n_vocab)`
    starts: Starts  # positions where documents begin
    bytes: int  # of text
    mask: Mask | None  # 0 for each id that is not a target; None: all count
    target_bytes: int  # of the text that counts
    characters: int  # of text
    unspelled: int | None = None  # characters of the text that the ids do not spell, where there can be any


class ShardWriter:
    """A writer of NAME.bin, NAME.starts.npy, and, as soon as some token does not count, NAME.mask.bin."""

    def __init__(self, path: Path, dtype: str, files: contextlib.ExitStack) -> None:
        self.path, self.files, self.width = path, files, np.dtype(dtype).itemsize
        self.counts = {"documents": 0, "bytes": 0, "tokens": 0, "characters": 0}
        self.targets = self.target_bytes = 0
        self.unspelled: int | None = None
        self._ids = _HashedFile(files.enter_context(path.open("wb")))
        self._mask: _HashedFile | None = None
        self._starts: list[Starts] = []

    def add(self, done: Done) -> None:
        """Append a job."""
        tokens, before = len(done.ids) // self.width, self.counts["tokens"]
        if done.mask is not None and self._mask is None:
            self._mask = _HashedFile(self.files.enter_context(self.path.with_suffix(MASK).open("wb")))
            self._mask.write_ones(before)
        if self._mask is not None and done.mask is None:
            self._mask.write_ones(tokens)
        elif self._mask is not None and done.mask is not None:
            self._mask.write(done.mask.tobytes())
        self._ids.write(done.ids)
        self._starts.append(done.starts + np.uint32(before))
        self.counts["documents"] += len(done.starts)
        self.counts["bytes"] += done.bytes
        self.counts["tokens"] += tokens
        self.counts["characters"] += done.characters
        self.targets += tokens if done.mask is None else int(done.mask.sum())
        self.target_bytes += done.target_bytes
        if done.unspelled is not None:
            self.unspelled = (self.unspelled or 0) + done.unspelled

    def finish(self) -> dict[str, Any]:
        """Wait until everything is on disk; return the manifest of this shard."""
        array = io.BytesIO()  # np.save into a file does not report a full disk
        np.save(array, np.concatenate(self._starts))
        sha256 = self._ids.finish()
        self.path.with_suffix(".starts.npy").write_bytes(array.getvalue())
        record: dict[str, Any] = {"file": self.path.name, **self.counts, "sha256": sha256}
        if self.unspelled is not None:
            record["unspelled"] = self.unspelled
        if self._mask is None:
            return record
        masked = {"mask_sha256": self._mask.finish(), "targets": self.targets, "target_bytes": self.target_bytes}
        return {**record, **masked}


class _HashedFile:
    """A file that is hashed (SHA-256) while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)

    def write_ones(self, size: int) -> None:
        for start in range(0, size, BLOCK):
            self.write(b"\x01" * min(BLOCK, size - start))

    def finish(self) -> str:
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.digest.hexdigest()
