"""Read files as documents in chunks: plain text, JSON and tables, also compressed, in constant memory."""

import codecs
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from gptlab.data.text import parquet
from gptlab.data.text.json_arrays import array_items, is_array
from gptlab.data.text.opened import BLOCK, bytes_read, opened, tell, whole_file
from gptlab.data.text.tables import (
    NOT_UTF8,
    Row,
    arrow_batches,
    arrow_rows,
    column_values,
    delimited_rows,
    records,
    require_column,
)
from gptlab.errors import UserError, reason, require

HEAD = 1 << 20  # bytes that tell what a file holds
LONG = 1 << 22  # characters of a document between separators that are kept before it is yielded in chunks
LONGEST = 1 << 26  # bytes of a line of JSON, which is in memory as a whole
FORMATS = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
}
ARCHIVES = (".7z", ".br", ".bz2", ".lz4", ".rar", ".tar", ".tgz", ".xz", ".zip")
TOKENS = (".bin", ".idx", ".npy")


class Chunk(NamedTuple):
    """A piece of a document, which is never empty.

    A document is a chunk that `begins` and all chunks up to the next one that does. The tokens of a chunk without
    `counts` are read but are not targets: a prompt, for example, whose answer is to be learned. Where `counts` changes
    within a document a token ends; other borders of chunks have no effect on the tokens.
    """

    text: str
    begins: bool
    counts: bool = True


class Reading(NamedTuple):
    """The settings by which files are read; the fields are those of `Readable` in sources.py."""

    column: str
    separator: str | None
    errors: str
    format: str = "auto"


def byte_length(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def format_of(name: str) -> tuple[str, str]:
    """Return the format that a file's name declares, one of FORMATS or `text`, and how it is compressed."""
    endings = [ending.lower() for ending in Path(name).suffixes]
    packing = endings.pop() if endings and endings[-1] in (".gz", ".zst") else ""
    kind = endings[-1] if endings else ""
    return next((each for each, kinds in FORMATS.items() if kind in kinds), "text"), packing


def read(path: Path, reading: Reading, key: str, name: str | None = None) -> Iterator[Chunk]:
    """Yield the documents of a file, which is read by its name's endings, or by the `format` that is given.

    `name` is what the endings are taken from, where the file is kept under another name. Plain text without a separator
    whose first lines are JSON records with the column is JSON lines. Raises UserError, as `key=path`, where the file is
    damaged or not what its name says.
    """

    def mistake(why: str, todo: str) -> UserError:
        return UserError(key, path, why, todo)

    if reading.format == "auto":
        _require_text(name or path.name, key, path)
    with whole_file(key, path):
        kind, packing = _kind(path, reading, name or path.name)
        if kind in ("parquet", "arrow"):
            why, todo = f"{packing} around {kind} is not read", "decompress it"
            require(not packing, key, path, why, todo)
            find = parquet.arrays if kind == "parquet" else arrow_rows
            rows = column_values(find(path, reading.column, mistake), reading.errors, mistake)
            yield from _documents(rows, reading, key, path)
            tell(path.stat().st_size)
            return
        with opened(path, packing) as file:
            if kind == "array":
                for where, record in array_items(_blocks(file, reading, key, path), mistake):
                    yield from _record(record, where, reading, key, path)
            elif kind == "json":
                for where, record in _json_lines(file, reading.errors, key, path):
                    yield from _record(record, where, reading, key, path)
            elif kind in ("csv", "tsv"):
                delimiter = "," if kind == "csv" else "\t"
                rows = delimited_rows(file, reading.column, delimiter, reading.errors, mistake)
                yield from _documents(rows, reading, key, path)
            elif reading.separator:
                yield from _separated(_blocks(file, reading, key, path), reading.separator, key, path)
            else:
                for i, text in enumerate(_blocks(file, reading, key, path)):
                    yield Chunk(text, begins=i == 0)


def has_lines(path: Path, reading: Reading) -> bool:
    """Tell whether a file is read as JSON lines that are not compressed, so that it can be divided between lines."""
    return _kind(path, reading, path.name) == ("json", "")


def read_lines(path: Path, start: int, stop: int, reading: Reading, key: str) -> Iterator[Chunk]:
    """Yield the documents of the JSON lines from one byte of a file to another, which begin and end lines."""
    with whole_file(key, path), opened(path, "") as file:
        file.seek(start)
        for where, record in _json_lines(file, reading.errors, key, path, start, stop):
            yield from _record(record, where, reading, key, path)


def _kind(path: Path, reading: Reading, name: str) -> tuple[str, str]:
    """Return as what a file is read, one of FORMATS, `text` or `array` (of JSON), and how it is compressed."""
    declared, packing = format_of(name)
    kind = declared if reading.format == "auto" else reading.format
    if kind == "text" and reading.format == "auto" and reading.separator is None:
        kind = "json" if _has_json_lines(_head(path, packing), reading.column) else kind
    if kind == "json" and is_array(_head(path, packing).decode("utf-8", "ignore").removeprefix("\ufeff")):
        kind = "array"
    return kind, packing


def read_records(path: Path, key: str) -> Iterator[tuple[str, Any]]:
    """Yield each record of a file of JSON lines, of one JSON array, of Parquet or of Arrow, with where it stands.

    JSON may be packed as .gz or .zst. Raises UserError, as `key=path`, where the file is damaged or something else.
    """

    def mistake(why: str, todo: str) -> UserError:
        return UserError(key, path, why, todo)

    kind, packing = format_of(path.name)
    todo = "give JSON lines, one JSON array, or Parquet"
    known = ("json", "text", "parquet", "arrow")
    require(kind in known, key, path, f"holds {kind}, which is not read as records", todo)
    _require_text(path.name, key, path)
    with whole_file(key, path):
        if kind in ("parquet", "arrow"):
            require(not packing, key, path, f"{packing} around {kind} is not read", "decompress it")
            batches = parquet.record_batches if kind == "parquet" else arrow_batches
            yield from records(batches(path, mistake), mistake)
            return
        as_array = is_array(_head(path, packing).decode("utf-8", "ignore").removeprefix("\ufeff"))
        with opened(path, packing) as file:
            if as_array:
                yield from array_items(_blocks(file, Reading("", None, "strict"), key, path), mistake)
                return
            yield from _json_lines(file, "strict", key, path)


def _require_text(name: str, key: str, path: Path) -> None:
    """Refuse by its name what is surely no text, which data.errors=replace would take for some."""
    endings = [ending.lower() for ending in Path(name).suffixes if ending.lower() not in (".gz", ".zst")]
    ending = endings[-1] if endings else ""
    require(ending not in ARCHIVES, key, path, f"{ending} is not read", "unpack it, or pack it as .gz or .zst")
    require(ending not in TOKENS, key, path, f"{ending} holds tokens, not text", "give data=tokens data.train=[...]")


def _head(path: Path, packing: str) -> bytes:
    with bytes_read(None), opened(path, packing) as file:
        return file.read(HEAD)


def _has_json_lines(head: bytes, column: str) -> bool:
    """Tell whether the first two lines of a file, or its only one, are records with a text."""
    lines = head.removeprefix(codecs.BOM_UTF8).split(b"\n")
    if len(head) == HEAD:
        lines.pop()  # it may go on
    first = list(itertools.islice((line for line in lines if line.strip()), 2))
    return bool(first) and all(_is_record(line, column) for line in first)


def _is_record(line: bytes, column: str) -> bool:
    try:
        found = json.loads(line) if line.lstrip().startswith(b"{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get(column), str)


def _blocks(file: IO[bytes], reading: Reading, key: str, path: Path) -> Iterator[str]:
    """Yield text in blocks that are never empty and never split a character; line ends stay as they are."""
    decoder = codecs.getincrementaldecoder("utf-8")(reading.errors)
    offset, end = 0, False
    while not end:
        block = file.read(BLOCK)
        end = not block
        held = len(decoder.getstate()[0])  # bytes of an unfinished character at the end of the last block
        try:
            text = decoder.decode(block, final=end)
        except UnicodeDecodeError as error:
            raise _not_utf8(key, path, f"byte {offset - held + error.start}") from error
        text = text if offset else text.removeprefix("\ufeff")  # byte order mark
        offset += len(block)
        if text:
            yield text


def _separated(blocks: Iterator[str], separator: str, key: str, path: Path) -> Iterator[Chunk]:
    """Yield the documents between separators, without the line ends around them; long ones in several chunks."""
    rest, begins = "", True  # what of a document is not yielded yet
    for block in blocks:
        searched = max(0, len(rest) - len(separator) + 1)
        rest += block
        if rest.find(separator, searched) >= 0:
            *documents, rest = rest.split(separator)
            for document in documents:
                yield from _end(document, begins)
                begins = True
        if len(rest) > LONG:
            text = rest.lstrip("\r\n") if begins else rest
            body = text[: len(text) - len(separator) + 1].rstrip("\r\n")  # what follows may belong to a separator
            if len(body) > BLOCK:
                yield Chunk(body, begins)
                rest, begins = text[len(body) :], False
            why = f"has more than {LONGEST:,} line ends in a row"
            require(len(rest) <= LONGEST, key, path, why, "take them out")
    yield from _end(rest, begins)


def _end(text: str, begins: bool) -> Iterator[Chunk]:
    """Yield the last chunk of a document, if there is any of it."""
    if text := text.strip("\r\n") if begins else text.rstrip("\r\n"):
        yield Chunk(text, begins)


def _json_lines(
    file: IO[bytes], errors: str, key: str, path: Path, offset: int = 0, stop: int | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line that is not empty, from byte `offset` up to `stop`, with where it stands."""
    at_start = offset == 0
    for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
        if stop is not None and offset >= stop:
            return
        size = len(line)
        why = f"line {number} is longer than {LONGEST:,} bytes"
        require(size <= LONGEST, key, path, why, "divide its text, or give it as a file of plain text")
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 and at_start else line
        try:
            if line.strip():
                yield f"line {number}", json.loads(line.decode("utf-8", errors))
        except UnicodeDecodeError as error:
            raise _not_utf8(key, path, f"byte {offset + error.start}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(key, path, f"line {number} is not JSON ({reason(error)})", "mend or drop it") from error
        offset += size


def _documents(rows: Iterator[Row], reading: Reading, key: str, path: Path) -> Iterator[Chunk]:
    for where, value in rows:
        yield from _record({reading.column: value}, where, reading, key, path)


def _record(record: Any, where: str, reading: Reading, key: str, path: Path) -> Iterator[Chunk]:
    names = list(record) if isinstance(record, dict) else []
    require_column(names, reading.column, where, lambda why, todo: UserError(key, path, why, todo))
    text = "" if record[reading.column] is None else record[reading.column]
    why = f"{where} has a {type(text).__name__} as {reading.column!r}, not text"
    require(isinstance(text, str), key, path, why, "choose another data.column")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can hold a lone surrogate
        if reading.errors == "strict":
            why = f"{where} holds half a character (at {error.start})"
            raise UserError(key, path, why, "mend it, or data.errors=replace") from error
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if text:
        yield Chunk(text, begins=True)


def _not_utf8(key: str, path: Path, where: str) -> UserError:
    return UserError(key, path, f"is not UTF-8 ({where})", NOT_UTF8)
