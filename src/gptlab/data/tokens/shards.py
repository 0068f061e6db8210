"""Read shards on disk as one sequence of ids: our own, and those that nanoGPT and llm.c write.

A shard is a plain array of ids: `np.memmap(path, dtype)`. llm.c puts a header of 256 numbers before it. Beside NAME.bin
there may be NAME.mask.bin, one byte per token: 0 if the token is not a target.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.checksums import require_listed, warn_unless_listed
from gptlab.errors import UserError, reason, require
from gptlab.files import cache_dir, read_json, read_object, short, write_atomically

Tokens = np.ndarray[Any, np.dtype[Any]]
MOST_MANIFEST = 1 << 26  # bytes
BLOCK = 1 << 22  # tokens read at once
MOST_OPEN = 128  # shards of a stream that stay open: each takes a file handle, of which a process may have 1,024
AGAIN = "take it from another copy of the run"
MASK = ".mask.bin"  # ends the name of a loss mask


def dtype_for(n_vocab: int) -> str:
    """Return the smaller of the two types that can hold a vocabulary's ids."""
    return "uint16" if n_vocab <= 2**16 else "uint32"


@dataclass(frozen=True)
class Shard:
    """A file of ids, and the files beside it."""

    path: Path
    dtype: str
    tokens: int
    offset: int = 0  # bytes
    starts: Path | None = None  # positions where documents begin, if recorded
    mask: Path | None = None  # None: all tokens count
    mask_offset: int = 0  # bytes

    def map(self, start: int = 0, stop: int | None = None) -> Tokens:
        """Return the ids from `start` to `stop`, (N,), memory-mapped: nothing is read before it is needed."""
        size = (self.tokens if stop is None else min(stop, self.tokens)) - start
        return _map(self.path, self.dtype, self._offset(start), size)

    def map_mask(self, start: int = 0, stop: int | None = None) -> Tokens:
        """Return the loss mask from `start` to `stop`, (N,) uint8."""
        size = (self.tokens if stop is None else min(stop, self.tokens)) - start
        if self.mask is None:
            return np.broadcast_to(np.uint8(1), (size,))  # takes no memory
        return _map(self.mask, "uint8", self.mask_offset + start, size)

    def read(self, start: int, stop: int) -> Tokens:
        """Return a copy of the ids from `start` to `stop`, (N,); the file is closed again."""
        return np.fromfile(self.path, self.dtype, min(stop, self.tokens) - start, offset=self._offset(start))

    def read_mask(self, start: int, stop: int) -> Tokens:
        """Return a copy of the loss mask from `start` to `stop`, (N,) uint8."""
        if self.mask is None:
            return np.ones(min(stop, self.tokens) - start, np.uint8)
        return np.fromfile(self.mask, np.uint8, min(stop, self.tokens) - start, offset=self.mask_offset + start)

    def _offset(self, start: int) -> int:
        return self.offset + start * np.dtype(self.dtype).itemsize


class TokenStream:
    """Shards joined into one array of ids (N,): it has a length, and slices with a start and a stop.

    Up to 128 shards stay open; where there are more, each is opened when it is read. Memory does not grow with the
    length of a stream.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        self.has_mask = any(shard.mask for shard in shards)
        held = self.shards if len(shards) <= MOST_OPEN else []
        self._arrays = [shard.map() for shard in held]
        self._masks = [shard.map_mask() for shard in held if self.has_mask]
        self._ends = np.cumsum([shard.tokens for shard in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.shards else 0

    def __getitem__(self, part: slice) -> Tokens:
        if not self._arrays:
            return self.read(part)
        return self._joined(part, lambda number, start, stop: self._arrays[number][start:stop])

    def read(self, part: slice) -> Tokens:
        """Return a copy of the ids of a slice, of which no page stays in memory."""
        return self._joined(part, lambda number, start, stop: self.shards[number].read(start, stop))

    def mask(self, part: slice) -> Tokens | None:
        """Return the loss mask of the ids of a slice, (N,) uint8: 0 for no target; None if all tokens count."""
        if not self.has_mask:
            return None
        if not self._masks:
            return self._joined(part, lambda number, start, stop: self.shards[number].read_mask(start, stop))
        return self._joined(part, lambda number, start, stop: self._masks[number][start:stop])

    def _joined(self, part: slice, of_shard: Callable[[int, int, int], Tokens]) -> Tokens:
        """Join what `of_shard` returns for the number of each shard, and where the slice begins and ends in it."""
        start, stop, _ = part.indices(len(self))
        found = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = int(self._ends[number])
            begin = end - self.shards[number].tokens
            found.append(of_shard(number, start - begin, min(stop, end) - begin))
            start, number = end, number + 1
        return found[0] if len(found) == 1 else np.concatenate(found) if found else np.empty(0, np.uint16)

    def blocks(self) -> Iterator[Tokens]:
        """Yield all ids, in order, a block at a time, of which no page stays in memory."""
        for shard in self.shards:
            yield from (shard.map(i, i + BLOCK) for i in range(0, shard.tokens, BLOCK))

    def mask_blocks(self) -> Iterator[Tokens]:
        """Yield the loss mask beside `blocks`; nothing if all tokens count."""
        for shard in self.shards if self.has_mask else []:
            yield from (shard.map_mask(i, i + BLOCK) for i in range(0, shard.tokens, BLOCK))

    def counted_before(self, positions: Tokens) -> Tokens:
        """Return how many tokens before each position count, (P,) int64; `positions` (P,) ascend, from 0 to N."""
        if not self.has_mask:
            return positions
        found, begin, total = np.empty(len(positions), np.int64), 0, 0
        for block in self.mask_blocks():
            sums = np.concatenate([[0], np.cumsum(block != 0)]) + total
            first, last = np.searchsorted(positions, [begin, begin + len(block)])
            found[first:last] = sums[positions[first:last] - begin]
            begin, total = begin + len(block), int(sums[-1])
        found[np.searchsorted(positions, begin) :] = total
        return found

    def document_starts(self, eot: int) -> Tokens:
        """Return the positions where documents begin, (D,) int64: as recorded, or at the separators.

        Tokens before the first separator are a document too.
        """
        return np.concatenate(list(self.start_blocks(eot)))

    def start_blocks(self, eot: int) -> Iterator[Tokens]:
        """Yield what `document_starts` returns, ascending, some at a time; the first is 0."""
        yield np.zeros(1, np.int64)
        begin = 0
        for shard in self.shards:
            for found in _start_blocks(shard, eot):
                yield (found[1:] if begin == 0 and len(found) and found[0] == 0 else found) + begin
            begin += shard.tokens


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what manifest.json says of a folder of shards, which may come from anywhere; raises UserError where it
    is damaged, or names files out of the folder."""
    path = folder / "manifest.json"
    try:
        manifest = read_json(path, MOST_MANIFEST)
        fits = isinstance(manifest["sha256"], str) and manifest["dtype"] in ("uint16", "uint32")
        fits &= _counts(manifest, "n_vocab", "eot")
        for part in (manifest["train"], manifest["val"]):
            fits &= _counts(part, "documents", "bytes", "tokens")
            for shard in part["shards"]:
                fits &= Path(shard["file"]).name == shard["file"] and _counts(shard, "tokens")
                fits &= all(isinstance(shard[key], str) for key in ("sha256", "mask_sha256") if key in shard)
                shard["sha256"]  # is there
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(path, f"cannot be read ({type(error).__name__}: {reason(error)})") from error
    if not fits:
        raise damaged(path, "does not say which shards there are")
    return dict(manifest)


def own_shards(folder: Path, manifest: dict[str, Any], part: str) -> list[Shard]:
    """Return the shards of a folder that a manifest lists.

    Raises UserError if a file is missing or has another size.
    """
    found = []
    for shard in manifest[part]["shards"]:
        path, dtype = folder / shard["file"], manifest["dtype"]
        require_size(path, shard["tokens"] * np.dtype(dtype).itemsize)
        starts, mask = path.with_suffix(".starts.npy"), mask_path(path) if "mask_sha256" in shard else None
        if mask is not None:
            require_size(mask, shard["tokens"])
        found.append(Shard(path, dtype, shard["tokens"], starts=starts if starts.is_file() else None, mask=mask))
    return found


def held_out_stream(folder: Path) -> tuple[TokenStream, int]:
    """Return the held-out tokens that `Corpus.save_held_out` wrote, and the number of bytes that their targets spell.

    Raises UserError if a file is missing, damaged or of another size.
    """
    manifest = read_object("data", folder / "manifest.json", MOST_MANIFEST, AGAIN)
    require_listed("data", AGAIN, folder / "manifest.json")
    try:
        dtype, part = manifest["dtype"], manifest["val"]
        tokens, size = part["tokens"], part.get("target_bytes", part["bytes"])
    except (KeyError, TypeError) as error:
        raise damaged(folder / "manifest.json", f"cannot be read ({type(error).__name__}: {reason(error)})") from error
    known = dtype in ("uint16", "uint32") and all(type(n) is int and n >= 0 for n in (tokens, size))
    require(known, "data", folder / "manifest.json", "does not say what val.bin is", "copy it again")
    path = folder / "val.bin"
    require_size(path, tokens * np.dtype(dtype).itemsize)
    mask = mask_path(path) if "targets" in part else None
    if mask is not None:
        require_size(mask, tokens)
    warn_unless_listed("data", path, *([mask] if mask else []))
    return TokenStream([Shard(path, dtype, tokens, mask=mask)]), size


def masks(shards: Sequence[Shard]) -> list[Shard]:
    """Return the loss masks of the shards that have one, as shards of bytes."""
    return [Shard(shard.mask, "uint8", shard.tokens) for shard in shards if shard.mask is not None]


def check(shards: Sequence[Shard], n_vocab: int | None, expected: Sequence[str] | None = None) -> list[str]:
    """Return the SHA-256 of each shard's file.

    Reading everything takes time, so the result is remembered as long as a file keeps its size and time. Raises
    UserError if one is not the `expected` hash, or if a shard has ids outside the vocabulary.
    """
    found = []
    for number, shard in enumerate(shards):
        read_through(shard)
        seen = json.loads(_memo(shard).read_text(encoding="utf-8"))
        found.append(seen["sha256"])
        if expected is not None and seen["sha256"] != expected[number]:
            why = f"its SHA-256 is {seen['sha256'][:12]}... and not the manifest's {expected[number][:12]}..."
            raise damaged(shard.path, why)
        if n_vocab is not None:
            why = f"it has ids up to {seen['largest']:,}, the vocabulary ends at {n_vocab - 1:,}"
            todo = "take the tokenizer that made it"
            if expected is None and shard.offset == 0:
                todo += ", or say what it holds, e.g. data.dtype=uint16"
            require(seen["largest"] < n_vocab, "data", shard.path, why, todo)
    return found


def remember(shard: Shard, seen: dict[str, Any]) -> None:
    """Note what was found of a shard, `sha256` and `largest` id, for as long as its file keeps its size and time."""
    write_atomically(_memo(shard), json.dumps(seen).encode())


def _memo(shard: Shard) -> Path:
    stat = shard.path.stat()
    key = repr((str(shard.path.absolute()), stat.st_size, stat.st_mtime_ns, shard.dtype, shard.offset))
    return cache_dir() / "checked" / f"{short(key)}.json"


def is_read(shard: Shard) -> bool:
    """Tell whether a shard's SHA-256 and largest id are remembered."""
    return _memo(shard).exists()


def read_through(shard: Shard) -> None:
    """Read a shard's file, and remember its SHA-256 and largest id, unless they are remembered."""
    if is_read(shard):
        return
    digest, largest = hashlib.sha256(), -1
    with shard.path.open("rb") as file:
        digest.update(file.read(shard.offset))
        while block := file.read(BLOCK):
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, shard.dtype).max()))
    remember(shard, {"sha256": digest.hexdigest(), "largest": largest})


def _map(path: Path, dtype: str, offset: int, size: int) -> Tokens:
    if not size:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r", offset, (size,)))  # slicing an array is cheaper than a memmap


def mask_path(path: Path) -> Path:
    """Return the path of a shard's loss mask, if it has one."""
    return path.with_suffix(MASK)


def _start_blocks(shard: Shard, eot: int) -> Iterator[Tokens]:
    """Yield where the documents of a shard begin, ascending, (D,) int64, some at a time."""
    if shard.starts is None:
        for i in range(0, shard.tokens, BLOCK):
            yield np.flatnonzero(shard.map(i, i + BLOCK) == eot) + i
        return
    starts, before = _starts(shard.starts), -1
    for i in range(0, len(starts), BLOCK):
        block = starts[i : i + BLOCK].astype(np.int64)
        if (np.diff(block, prepend=before) <= 0).any() or block[-1] >= shard.tokens:
            raise damaged(shard.starts, "cannot be read (its numbers are no places in the shard)")
        yield block
        before = int(block[-1])


def _starts(path: Path) -> Tokens:
    """Return the numbers of a file that says where documents begin, (D,); raises UserError where it is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":  # np.load reads other kinds of files too
                raise ValueError("it is no array")
        starts: Tokens = np.load(path, mmap_mode="r")
        if starts.ndim != 1 or starts.dtype.kind != "u":
            raise ValueError("its numbers are no places in the shard")
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, f"cannot be read ({reason(error)})") from error
    return starts


def _counts(values: dict[str, Any], *keys: str) -> bool:
    """Tell whether these are whole numbers from 0 up."""
    return all(type(values[key]) is int and values[key] >= 0 for key in keys)


def require_size(path: Path, size: int) -> None:
    """Raise UserError unless a file has this number of bytes."""
    if not path.is_file():
        raise damaged(path, "no such file")
    found = os.path.getsize(path)
    if found != size:
        raise damaged(path, f"has {found:,} bytes instead of {size:,}")


def damaged(path: Path, why: str) -> UserError:
    return UserError("data", path, why, "copy it again; if it is in the cache, remove its folder, and it is made again")
