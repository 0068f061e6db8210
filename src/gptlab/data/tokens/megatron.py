"""Read Megatron-LM's token files: NAME.bin, and NAME.idx which says where its documents are."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.tokens.shards import Tokens
from gptlab.errors import UserError

MAGIC = b"MMIDIDX\0\0"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, type of the ids, sequences, documents and one
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}  # 6 and 7 are floating-point
BLOCK = 1 << 20  # entries looked at at once


@dataclass(frozen=True)
class Index:
    """Hold what NAME.idx says: the type of the ids, how many there are, and where each document ends."""

    dtype: str
    tokens: int
    ends: Tokens  # of the documents, in ids, (D,) int64


def is_index(path: Path) -> bool:
    """Tell whether there is an index beside a .bin file."""
    return path.suffix == ".bin" and path.with_suffix(".idx").is_file()


def read_index(path: Path) -> Index:
    """Read the index beside a .bin file: of indexed_dataset.py, version 1.

    Raises UserError where it is another version, does not fit the .bin file, or has sequences that do not lie one after
    another.
    """
    index, size = path.with_suffix(".idx"), path.stat().st_size

    def mistake(why: str, todo: str = "copy both files again, or make them again") -> UserError:
        return UserError("data", index, why, todo)

    with index.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise mistake("is no index that is known", "make it with Megatron's `--dataset-impl mmap`, or move it away")
    _, version, code, sequences, documents = HEADER.unpack(head)
    if version != 1 or code not in DTYPES:
        raise mistake(f"has version {version} and ids of type {code}", "version 1 with whole numbers is read")
    expected = HEADER.size + 12 * sequences + 8 * documents
    found = index.stat().st_size
    if found == expected + sequences:
        raise mistake("is of several modes, not text alone", "give tokens of text")
    if found != expected or not documents:
        raise mistake(f"has {found:,} bytes instead of {expected:,}")
    lengths = _map(index, "<i4", HEADER.size, sequences)
    pointers = _map(index, "<i8", HEADER.size + 4 * sequences, sequences)
    borders = _map(index, "<i8", HEADER.size + 12 * sequences, documents)
    width, tokens = np.dtype(DTYPES[code]).itemsize, 0
    for start in range(0, sequences, BLOCK):
        here = lengths[start : start + BLOCK].astype(np.int64)
        begins = tokens + np.cumsum(here) - here
        if (here < 0).any() or (pointers[start : start + BLOCK] != begins * width).any():
            raise mistake("has sequences that do not lie one after another", "make it again")
        tokens += int(here.sum())
    if tokens * width != size:
        raise mistake(f"tells of {tokens * width:,} bytes, and {path.name} has {size:,}")
    if borders[0] != 0 or borders[-1] != sequences or (np.diff(borders) < 0).any():
        raise mistake("has documents that are not in order")
    every = np.append(pointers, tokens * width) // width if sequences else np.zeros(1, np.int64)
    return Index(DTYPES[code], tokens, every[borders[1:]])


def ends_with(ids: Tokens, index: Index, eot: int) -> bool:
    """Tell whether every document that is not empty ends with the separator."""
    ends = index.ends[index.ends > 0]
    return all(bool((ids[ends[i : i + BLOCK] - 1] == eot).all()) for i in range(0, len(ends), BLOCK))


def documents(ids: Tokens, index: Index) -> Iterator[Tokens]:
    """Yield the ids of each document."""
    start = 0
    for end in index.ends:
        yield ids[start : int(end)]
        start = int(end)


def _map(path: Path, dtype: str, offset: int, size: int) -> Any:
    return np.memmap(path, dtype, "r", offset, (size,)) if size else np.empty(0, dtype)
