"""Shards on disk as one sequence of ids: our own, and those that nanoGPT and llm.c write.

A shard is a plain array of ids: `np.memmap(path, dtype)`. llm.c's has 256 numbers before it, which say what it is.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.tokens.cache import cache_dir, short
from gptlab.errors import UserError, reason, require
from gptlab.files import read_json, write_atomically

Tokens = np.ndarray[Any, np.dtype[Any]]
MOST_MANIFEST = 1 << 26  # bytes
BLOCK = 1 << 22  # tokens read at once
HEADER = 1024  # bytes before the ids of llm.c
LLM_C = {20240520: "uint16", 20240801: "uint32"}  # its first number


def dtype_for(n_vocab: int) -> str:
    """The smallest of the two types that has room for a vocabulary."""
    return "uint16" if n_vocab <= 2**16 else "uint32"


@dataclass(frozen=True)
class Shard:
    path: Path
    dtype: str
    tokens: int
    offset: int = 0  # bytes
    starts: Path | None = None  # where documents begin, if somebody wrote it down

    def map(self) -> Tokens:
        """(N,) ids; nothing is read before it is needed."""
        if not self.tokens:
            return np.empty(0, self.dtype)
        return np.asarray(np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,)))  # slicing is cheaper


class TokenStream:
    """Shards one after another as one array of ids (N,): it has a length, and slices with a start and a stop."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self._arrays = [shard.map() for shard in shards]
        self._ends = np.cumsum([len(a) for a in self._arrays], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.shards else 0

    def __getitem__(self, part: slice) -> Tokens:
        start, stop, _ = part.indices(len(self))
        found = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            begin = int(self._ends[number]) - len(self._arrays[number])
            found.append(self._arrays[number][start - begin : stop - begin])
            start, number = int(self._ends[number]), number + 1
        return found[0] if len(found) == 1 else np.concatenate(found) if found else np.empty(0, np.uint16)

    def blocks(self) -> Iterator[Tokens]:
        """All of it, in order, a piece at a time."""
        for array in self._arrays:
            yield from (array[i : i + BLOCK] for i in range(0, len(array), BLOCK))

    def document_starts(self, eot: int) -> Tokens:
        """Where documents begin, (D,) int64: as written down, or at the separators; what is before the first is one."""
        found, begin = [np.zeros(1, np.int64)], 0
        for shard, array in zip(self.shards, self._arrays, strict=True):
            if shard.starts is not None:
                found.append(_starts(shard.starts).astype(np.int64) + begin)
            else:
                found += [np.flatnonzero(array[i : i + BLOCK] == eot) + i + begin for i in range(0, len(array), BLOCK)]
            begin += len(array)
        return np.unique(np.concatenate(found))


def own_shards(folder: Path, manifest: dict[str, Any], part: str) -> list[Shard]:
    """The shards that a manifest lists, none of them cut short."""
    found = []
    for shard in manifest[part]["shards"]:
        path, dtype = folder / shard["file"], manifest["dtype"]
        _require_size(path, shard["tokens"] * np.dtype(dtype).itemsize)
        starts = path.with_suffix(".starts.npy")
        found.append(Shard(path, dtype, shard["tokens"], starts=starts if starts.exists() else None))
    return found


def held_out_stream(folder: Path) -> tuple[TokenStream, int]:
    """Return the held-out ids (N,) that `Corpus.save_held_out` wrote, and how many bytes of text they spell.

    Raises UserError where a file is missing, damaged or of another size.
    """
    try:
        manifest = read_json(folder / "manifest.json", MOST_MANIFEST)
        dtype, tokens, size = manifest["dtype"], manifest["val"]["tokens"], manifest["val"]["bytes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / "manifest.json", f"cannot be read ({type(error).__name__}: {reason(error)})") from error
    known = dtype in ("uint16", "uint32") and all(type(n) is int and n >= 0 for n in (tokens, size))
    require(known, "data", folder / "manifest.json", "does not say what val.bin is", "copy it again")
    _require_size(folder / "val.bin", tokens * np.dtype(dtype).itemsize)
    return TokenStream([Shard(folder / "val.bin", dtype, tokens)]), size


def foreign_shard(path: Path, n_vocab: int) -> Shard:
    """A .bin file as others write it."""
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 256) if size >= HEADER else np.zeros(256, "<i4")
    if int(header[0]) in LLM_C:
        dtype, tokens = LLM_C[int(header[0])], int(header[2])
        _require_size(path, HEADER + tokens * np.dtype(dtype).itemsize)
        return Shard(path, dtype, tokens, HEADER)
    dtype = dtype_for(n_vocab)
    width = np.dtype(dtype).itemsize
    why = f"its {size:,} bytes are no whole number of {dtype} ids"
    require(size % width == 0, "data", path, why, "see that it is whole, and made with this tokenizer")
    return Shard(path, dtype, size // width)


def check(shards: Sequence[Shard], n_vocab: int | None, expected: Sequence[str] | None = None) -> list[str]:
    """The SHA-256 of each shard's file; refuses other ones than `expected`, and ids that a vocabulary does not have.

    Reading everything takes its time, so what was found is remembered as long as a file keeps its size and time.
    """
    found = []
    for number, shard in enumerate(shards):
        stat = shard.path.stat()
        key = repr((str(shard.path.absolute()), stat.st_size, stat.st_mtime_ns, shard.dtype, shard.offset))
        memo = cache_dir() / "checked" / f"{short(key)}.json"
        if not memo.exists():
            write_atomically(memo, json.dumps(_read_through(shard)).encode())
        seen = json.loads(memo.read_text())
        found.append(seen["sha256"])
        if expected is not None and seen["sha256"] != expected[number]:
            why = f"its SHA-256 is {seen['sha256'][:12]}... and not the manifest's {expected[number][:12]}..."
            raise _damaged(shard.path, why)
        if n_vocab is not None:
            why = f"it has ids up to {seen['largest']:,}, the vocabulary ends at {n_vocab - 1:,}"
            require(seen["largest"] < n_vocab, "data", shard.path, why, "take the tokenizer that made it")
    return found


def _read_through(shard: Shard) -> dict[str, Any]:
    digest, largest = hashlib.sha256(), -1
    with shard.path.open("rb") as file:
        digest.update(file.read(shard.offset))
        while block := file.read(BLOCK):
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, shard.dtype).max()))
    return {"sha256": digest.hexdigest(), "largest": largest}


def _starts(path: Path) -> Tokens:
    try:
        starts: Tokens = np.load(path)
    except (ValueError, EOFError) as error:
        raise _damaged(path, f"cannot be read ({reason(error)})") from error
    return starts


def _require_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise _damaged(path, "no such file")
    found = os.path.getsize(path)
    if found != size:
        raise _damaged(path, f"has {found:,} bytes instead of {size:,}")


def _damaged(path: Path, why: str) -> UserError:
    return UserError("data", path, why, "copy it again; if it is in the cache, remove its folder, and it is made anew")
