"""Turn rows of ids into shards: what `datasets` saves, Parquet files, and documents without separators."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from gptlab.data.text import parquet
from gptlab.data.text.tables import arrow_rows, column_names
from gptlab.data.tokens.shards import Shard, Tokens, mask_path
from gptlab.errors import UserError, reason, require
from gptlab.files import cache_dir, short, sync

LAYOUT = 1  # raise when the meaning of a cached file changes
DTYPE = "uint32"
LOOKED_AT = 64  # rows that tell blocks of a stream from documents
IGNORE = -100  # a label that does not count


class Row(NamedTuple):
    """Hold the ids of a row, and which of them count; None: all."""

    ids: Tokens
    counts: Tokens | None


def table_shard(path: Path, column: str, joined: bool | None, eot: int) -> Shard:
    """Return the ids of an Arrow or Parquet file as a shard, which is written into the cache once.

    A row is a document, behind one separator; with `joined` the rows are pieces of one stream. Ids where
    `attention_mask` is 0 are padding and left out, and those whose label in `labels` is -100 do not count. Raises
    UserError where that is not what the columns hold, or where the rows look like blocks of a stream and `joined` is
    None.
    """
    names = _guarded(path, lambda: column_names(path))
    if joined is None:
        first = [len(row.ids) for row, _ in zip(_rows(path, column, names), range(LOOKED_AT), strict=False)]
        blocks = len(first) >= 8 and len(set(first)) == 1 and first[0] > 1
        why = f"its rows all have {first[0] if first else 0:,} ids, as blocks of one stream have"
        require(not blocks, "data", path, why, "give data.joined=true, or data.joined=false if each is a document")
    stat = path.stat()
    key = ("table", str(path.absolute()), stat.st_size, stat.st_mtime_ns, column, bool(joined), eot)
    return converted(path, key, lambda: _rows(path, column, names), None if joined else eot)


def converted(path: Path, key: tuple[Any, ...], rows: Callable[[], Iterable[Row]], eot: int | None) -> Shard:
    """Return rows as a shard in the cache, where it stays: each behind one separator, unless `eot` is None."""
    out = cache_dir() / "converted" / f"{short(repr((LAYOUT, *key)))}.bin"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):
        if not out.exists():
            partial, mask = out.with_suffix(".partial"), mask_path(out)
            with partial.open("wb") as ids, mask.open("wb") as counted:
                masked = False
                for row in rows() if eot is None else _separated(rows(), eot):
                    why = "it has ids below 0 or beyond 32 bits"
                    fits = not len(row.ids) or (int(row.ids.min()) >= 0 and int(row.ids.max()) < 2**32)
                    require(fits, "data", path, why, "give ids of a tokenizer")
                    ids.write(row.ids.astype(DTYPE).tobytes())
                    counts = np.ones(len(row.ids), np.uint8) if row.counts is None else row.counts.astype(np.uint8)
                    masked = masked or not counts.all()
                    counted.write(counts.tobytes())
                sync(ids)
                sync(counted)
            if not masked:
                mask.unlink()
            os.replace(partial, out)
    found = mask_path(out)
    return Shard(out, DTYPE, out.stat().st_size // 4, mask=found if found.exists() else None)


def _separated(rows: Iterable[Row], eot: int) -> Iterator[Row]:
    """Put one separator before each document, whichever side it has one on; it counts where the id before it does.

    Nothing is known of what comes before a file whose ids do not all count: its first separator does not.
    """
    before: int | None = None
    for ids, counts in rows:
        before = int(counts is None) if before is None else before
        first = int(len(ids) > 0 and ids[0] == eot)
        last = len(ids) - int(len(ids) > first and ids[-1] == eot)
        if last == first:
            continue
        inside = np.ones(last - first, np.uint8) if counts is None else counts[first:last]
        yield Row(np.append(np.int64(eot), ids[first:last].astype(np.int64)), np.append(np.uint8(before), inside))
        before = int(inside[-1])


def _rows(path: Path, column: str, names: list[str]) -> Iterator[Row]:
    read = parquet.arrays if path.suffix.lower() == ".parquet" else arrow_rows
    wanted = [column, *(name for name in ("attention_mask", "labels") if name in names)]

    def mistake(why: str, todo: str) -> UserError:
        return UserError("data", path, why, todo)

    number = 0
    for arrays in _steps(path, zip(*(read(path, name, mistake) for name in wanted), strict=True)):
        pieces = dict(zip(wanted, arrays, strict=True))
        for i in range(len(arrays[0])):
            number += 1
            row = {name: _integers(array[i], name, number, mistake) for name, array in pieces.items()}
            ids, counts = row[column], None
            if any(len(each) != len(ids) for each in row.values()):
                raise mistake(f"row {number} has columns of different lengths", "mend it")
            read_ = row["attention_mask"] != 0 if "attention_mask" in row else np.ones(len(ids), bool)
            if "labels" in row:
                counts = row["labels"] != IGNORE
                if (row["labels"] != ids)[counts & read_].any():
                    raise mistake(
                        f"row {number} has labels that are not its ids", "drop the column, if it is of no use"
                    )
            yield Row(ids[read_], None if counts is None else counts[read_].astype(np.uint8))


def _integers(value: Any, name: str, number: int, mistake: Callable[[str, str], UserError]) -> Tokens:
    """Return a list of whole numbers, (N,); an empty one where there is none."""
    inside = getattr(value, "values", None)
    if inside is None:
        if value.is_valid:
            raise mistake(
                f"row {number} has a {value.type} as {name!r}, not a list of ids", "choose another data.column"
            )
        return np.empty(0, np.int64)
    if inside.null_count or not str(inside.type).startswith(("int", "uint")):
        raise mistake(f"row {number} has {inside.type} in {name!r}, not whole numbers", "choose another data.column")
    found: Tokens = inside.to_numpy(zero_copy_only=False)
    return found


def _steps(path: Path, steps: Iterator[Any]) -> Iterator[Any]:
    while (step := _guarded(path, lambda: next(steps, None))) is not None:
        yield step


def _guarded(path: Path, step: Callable[[], Any]) -> Any:
    """Return what `step` does; errors of pyarrow, or that it is missing, become UserError."""
    try:
        import pyarrow
    except ImportError as error:
        raise UserError("data", path, f"needs {error.name}", "pip install 'gptlab[files]'") from error
    try:
        return step()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError("data", path, f"cannot be read ({reason(error)})", "give a whole file") from error
