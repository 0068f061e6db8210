"""Keep more records than memory has room for on disk, divided by their keys into parts that do fit."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.files import cache_dir

MOST = 1 << 20  # records of a part, where keys are evenly spread
AT_ONCE = 1 << 18  # records that are written at once

Records = np.ndarray[Any, np.dtype[Any]]


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder beside the cache that is removed when it is left: /tmp may be memory."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".scratch-")


class Partitions:
    """Records with the field `key`, on disk, in parts by ascending keys: each part has its records in their order.

    `dtype` is that of a record, `expected` how many there will be, and keys are uint64, evenly spread over 0 to
    `span` - 1. Memory holds one block, or one part, at a time.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], expected: int, span: int = 1 << 64) -> None:
        self.folder, self.dtype = folder, dtype
        self.count = max(1, -(-expected // MOST))
        self._width = -(-span // self.count)  # keys of a part
        self._waiting: list[Records] = []
        self._size = 0
        folder.mkdir()

    def add(self, *columns: Any) -> None:
        """Append records, given by their fields: arrays, or one number for all of them."""
        records = np.empty(np.broadcast(*columns).shape or (1,), self.dtype)
        for name, values in zip(self.dtype.names or (), columns, strict=True):
            records[name] = values
        self._waiting.append(records)
        self._size += len(records)
        if self._size >= AT_ONCE:
            self._write()

    def part(self, number: int) -> Records:
        """Return a whole part, (N,)."""
        return np.concatenate([np.empty(0, self.dtype), *self.blocks(number)])

    def blocks(self, number: int) -> Iterator[Records]:
        """Yield a part, a block at a time."""
        self._write()
        path = self._path(number)
        with path.open("rb") if path.exists() else tempfile.TemporaryFile() as file:
            while len(block := np.fromfile(file, self.dtype, MOST)):
                yield block

    def _write(self) -> None:
        if not self._waiting:
            return
        records = np.concatenate(self._waiting)
        self._waiting, self._size = [], 0
        if self.count == 1:
            self._append(0, records)
            return
        numbers = (records["key"] // np.uint64(self._width)).astype(np.uint32)
        order = np.argsort(numbers, kind="stable")
        records, numbers = records[order], numbers[order]
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for first, piece in zip(firsts, np.split(records, firsts[1:]), strict=True):
            self._append(int(numbers[first]), piece)

    def _append(self, number: int, records: Records) -> None:
        with self._path(number).open("ab") as file:
            file.write(records.tobytes())  # unlike tofile, this says which error a full disk is

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.records"
