"""Read tables row by row, in constant memory: CSV, TSV, and Arrow."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from gptlab.errors import UserError, reason

MOST_RECORD = 1 << 26  # characters of a record that are held in memory
ROWS = 256  # read at once
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # ends an Arrow stream that was closed

Mistake = Callable[[str, str], UserError]  # of a file: why it cannot be read, and what to do
Row = tuple[str, Any]  # where it stands in words, and the value of the column


def delimited_rows(file: IO[bytes], column: str, delimiter: str, errors: str, mistake: Mistake) -> Iterator[Row]:
    """Yield the column of a CSV or TSV file, whose first row names the columns; fields may be in double quotes.

    Raises UserError where a row has another number of fields than the first, or quotes that do not end.
    """
    for where, fields in delimited_records(file, delimiter, errors, mistake):
        if where == HEAD:
            require_column(fields, column, "it", mistake)
            at = fields.index(column)
        else:
            yield where, fields[at]


def delimited_records(
    file: IO[bytes], delimiter: str, errors: str, mistake: Mistake, names: Sequence[str] = (), quoted: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a CSV or TSV file with where they stand: as HEAD the names of the columns, then the fields.

    The first row has the names, unless they are given. Fields may be in double quotes where `quoted`. Raises UserError
    where a row has another number of fields than there are names, or quotes that do not end.
    """
    text = io.TextIOWrapper(file, "utf-8", errors, newline="")
    csv.field_size_limit(MOST_RECORD)
    number, heads = 0, list(names)
    try:
        quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        rows = csv.reader(_lines(text, mistake), delimiter=delimiter, strict=True, quoting=quoting)
        if not heads:
            first = next(rows, None)
            if first is None:
                return
            heads = [name.removeprefix("\ufeff") for name in first[:1]] + first[1:]
        yield HEAD, heads
        for number, row in enumerate(rows, 1):
            if not row:  # an empty line
                continue
            if len(row) != len(heads):
                why = f"row {number} has {len(row)} fields, and there are {len(heads)} columns"
                raise mistake(why, "quote the fields that hold its separator, quotes or line ends")
            yield f"row {number}", row
    except UnicodeDecodeError as error:
        raise mistake(f"is not UTF-8 (after row {number})", NOT_UTF8) from error
    except csv.Error as error:
        why = f"row {number + 1} cannot be read ({reason(error)})"
        raise mistake(why, "double the quotes within quoted fields") from error


HEAD = "the first row"
NOT_UTF8 = "convert it (iconv -t UTF-8), or data.errors=replace"


def _lines(text: io.TextIOWrapper, mistake: Mistake) -> Iterator[str]:
    while line := text.readline(MOST_RECORD + 1):
        if len(line) > MOST_RECORD:
            raise mistake(f"has a line of more than {MOST_RECORD:,} characters", "give it as plain text")
        yield line


def column_names(path: Path) -> list[str]:
    """Return the columns of a Parquet or Arrow file."""
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        return list(pyarrow.parquet.read_schema(path).names)
    with pyarrow.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        return list((pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)).schema.names)


def arrow_rows(path: Path, column: str, mistake: Mistake) -> Iterator[Any]:
    """Yield the column of an Arrow file, as Arrow arrays of a few rows; raises UserError as `arrow_batches` does."""
    for batch in arrow_batches(path, mistake):
        require_column(batch.schema.names, column, "it", mistake)
        yield batch.column(batch.schema.names.index(column))


def arrow_batches(path: Path, mistake: Mistake) -> Iterator[Any]:
    """Yield the rows of an Arrow file, in the file or the stream format, as Arrow batches of a few rows.

    Hugging Face's `save_to_disk` writes streams. A file without rows gives one batch without any. Raises UserError
    where one ends without its end mark.
    """
    import pyarrow.ipc

    with path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0, io.SEEK_END)
        file.seek(-min(file.tell(), len(END_OF_STREAM)), io.SEEK_END)
        ends = file.read() == END_OF_STREAM
    if not is_file and not ends:
        raise mistake("is no Arrow file, or one that is cut short", "give a whole file")
    with pyarrow.memory_map(str(path)) as source:
        reader: Any = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
        yield pyarrow.RecordBatch.from_pylist([], reader.schema)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                yield batch.slice(start, ROWS)


def records(batches: Iterator[Any], mistake: Mistake) -> Iterator[Row]:
    """Yield the rows of Arrow batches as dicts without the fields that a row leaves empty, with where they stand.

    Raises UserError where a row is not UTF-8, or two columns have one name.
    """
    import pyarrow

    row = 0
    try:
        for batch in batches:
            names = batch.schema.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise mistake(f"has more than one column {twice!r}", "rename one")
            for number in range(batch.num_rows):
                row += 1
                (found,) = batch.slice(number, 1).to_pylist()
                yield f"row {row}", {name: value for name, value in found.items() if value is not None}
    except UnicodeDecodeError as error:
        raise mistake(f"is not UTF-8 (row {row})", "write it again as UTF-8") from error
    except pyarrow.ArrowException as error:
        raise mistake(f"cannot be read ({reason(error)})", "give a whole file") from error


def column_values(arrays: Iterator[Any], errors: str, mistake: Mistake) -> Iterator[Row]:
    """Yield the values of Arrow arrays; text is decoded here, so that a row that is not UTF-8 is named."""
    import pyarrow

    row = 0
    try:
        for array in arrays:
            values = array.dictionary_decode() if pyarrow.types.is_dictionary(array.type) else array
            as_bytes = pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)
            for value in (values.cast(pyarrow.large_binary()) if as_bytes else values).to_pylist():
                row += 1
                yield f"row {row}", value.decode("utf-8", errors) if as_bytes and value is not None else value
    except UnicodeDecodeError as error:
        raise mistake(f"is not UTF-8 (row {row})", NOT_UTF8) from error
    except pyarrow.ArrowException as error:
        raise mistake(f"cannot be read ({reason(error)})", "give a whole file") from error


def require_column(names: list[str], column: str, where: str, mistake: Mistake) -> None:
    """Raise UserError unless a record, or a table, has a column once."""
    if names.count(column) != 1:
        count = "no column" if column not in names else "more than one column"
        has = ", ".join(map(str, names)) or "no columns"
        raise mistake(f"{count} {column!r}: {where} has {has}", "choose one with data.column=NAME")
