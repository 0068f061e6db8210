"""Stream data sets of the Hugging Face hub through `datasets` into compressed JSON lines, once."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from gptlab.errors import UserError, reason, require
from gptlab.files import cache_dir, short, write_atomically

PIECE = 1 << 26  # bytes of text per file


def fetch(
    path: str, name: str | None, split: str, revision: str | None, column: str, max_documents: int | None
) -> list[Path]:
    """Return the files that hold `column` of a split; those that an earlier, interrupted call has written are kept."""
    require(bool(path), "data.path", "", "is empty", "give OWNER/NAME of a data set on the hub")
    key = repr((path, name, split, revision, column, max_documents, version(path)))
    folder = cache_dir() / "hub" / short(key)
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    with FileLock(folder / ".lock"):
        if not done.exists():
            _stream(folder, path, name, split, revision, column, max_documents)
            files = sorted(file.name for file in folder.glob("*.jsonl.gz"))
            write_atomically(done, json.dumps({"key": key, "files": files}).encode())
    return [folder / file for file in json.loads(done.read_text(encoding="utf-8"))["files"]]


def version(path: str) -> Any:
    """Return the sizes and times of the files of a local folder; None for a data set that is on the hub."""
    if not os.path.isdir(path):
        return None
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    return [(str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]


def _stream(
    folder: Path,
    path: str,
    name: str | None,
    split: str,
    revision: str | None,
    column: str,
    max_documents: int | None,
) -> None:
    counts = {file: int(file.name.split(".")[0].rpartition("-")[2]) for file in sorted(folder.glob("*.jsonl.gz"))}
    have = sum(counts.values())  # each file's name ends in its number of records
    piece: list[bytes] = []
    size, number = 0, len(counts)
    for text in _records(path, name, split, revision, column, have, max_documents):
        piece.append(json.dumps({column: text}, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        size += len(piece[-1])
        if size >= PIECE:
            _write(folder, number, piece)
            piece, size, number = [], 0, number + 1
    if piece:
        _write(folder, number, piece)


def _write(folder: Path, number: int, lines: list[bytes]) -> None:
    content = gzip.compress(b"".join(line + b"\n" for line in lines), compresslevel=3, mtime=0)
    write_atomically(folder / f"{number:05d}-{len(lines)}.jsonl.gz", content)


def _records(
    path: str, name: str | None, split: str, revision: str | None, column: str, skip: int, most: int | None
) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise UserError("data.path", path, f"needs {error.name}", "pip install 'gptlab[hub]'") from error
    try:
        stream = datasets.load_dataset(path, name, split=split, revision=revision, streaming=True)
        if most is not None:
            stream = stream.take(most)
        for record in stream.skip(skip):
            has = ", ".join(map(str, record))
            todo = "choose one with data.column=NAME"
            require(column in record, "data.column", column, f"{path} has no such column but {has}", todo)
            text = record[column]
            why = f"{path} has a {type(text).__name__} there, not text"
            require(text is None or isinstance(text, str), "data.column", column, why, "choose another")
            yield text
    except UserError:
        raise
    except Exception as error:  # the client raises many types: no network, name, permission or split
        why = f"cannot be read ({type(error).__name__}: {reason(error)})"
        todo = "connect, or see that its name, configuration and split are right; what came so far is kept"
        raise UserError("data.path", path, why, todo) from error
