"""Read the text of a Parquet file within bounded memory, whatever the file says of itself.

pyarrow takes as much memory for a page as its header asks for, and as many rows as a batch has. The headers are
therefore read first, and batches have few rows: a file of kilobytes cannot ask for gigabytes.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gptlab.data.text.tables import Mistake, require_column
from gptlab.errors import reason

LARGEST = 1 << 26  # bytes of a page when it is decompressed, and so of a text
ROWS = 8  # of a batch; each can repeat the largest text that a page has
HEADER = 1 << 16  # bytes that the header of a page may have


def arrays(path: Path, column: str, mistake: Mistake) -> Iterator[Any]:
    """Return the values of a column, as Arrow arrays of a few rows, which are read as they are asked for.

    Raises UserError where there is no such column, or the file is damaged, or a page of it is larger than LARGEST.
    """
    return (batch.column(0) for batch in record_batches(path, mistake, column))


def record_batches(path: Path, mistake: Mistake, column: str | None = None) -> Iterator[Any]:
    """Yield the rows of a file, with all of its columns or one, as Arrow batches of a few rows; raises UserError as
    `arrays` does."""
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as raw, pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20) as file:
            if column is not None:
                require_column(file.schema_arrow.names, column, "it", mistake)
            _require_small_pages(raw, file.metadata, column, mistake)
            yield from file.iter_batches(batch_size=ROWS, columns=None if column is None else [column])
    except (pyarrow.ArrowException, _NotThrift) as error:
        raise mistake(f"cannot be read ({reason(error)})", "give a whole file") from error


def _require_small_pages(raw: IO[bytes], metadata: Any, column: str | None, mistake: Mistake) -> None:
    for size in _page_sizes(raw, metadata, column):
        if not 0 <= size <= LARGEST:
            why = f"has a page of {size:,} bytes, and those of more than {LARGEST:,} are not read"
            raise mistake(why, "write it again with smaller pages, or its texts as files")


class _NotThrift(ValueError):
    """Say that the header of a page is none."""


def _page_sizes(raw: IO[bytes], metadata: Any, column: str | None) -> Iterator[int]:
    """Yield the size of each page of a column, or of all, when it is decompressed, as its header has it."""
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            if column not in (None, chunk.path_in_schema.partition(".")[0]):
                continue
            begin = chunk.data_page_offset
            if chunk.dictionary_page_offset is not None and 0 < chunk.dictionary_page_offset < begin:
                begin = chunk.dictionary_page_offset
            end = begin + chunk.total_compressed_size
            while begin < end:
                raw.seek(begin)
                header = io.BytesIO(raw.read(HEADER))
                fields = _struct(header)
                size, packed = fields.get(2), fields.get(3)
                if not isinstance(size, int) or not isinstance(packed, int) or packed < 0:
                    raise _NotThrift("the header of a page is damaged")
                yield size
                begin += header.tell() + packed


def _struct(file: IO[bytes], depth: int = 0) -> dict[int, int | None]:
    """Read a struct of Thrift's compact protocol: its numbers by their field; of other fields None."""
    found: dict[int, int | None] = {}
    field = 0
    if depth > 8:
        raise _NotThrift("the header of a page is nested too deep")
    while first := _byte(file):
        field = field + (first >> 4) if first >> 4 else _zigzag(file)
        found[field] = _value(file, first & 15, depth)
    return found


def _value(file: IO[bytes], kind: int, depth: int) -> int | None:
    if kind in (1, 2):  # true and false have no bytes
        return None
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _zigzag(file)
    if kind == 7:
        file.read(8)
    elif kind == 8:
        file.seek(min(_varint(file), HEADER), io.SEEK_CUR)
    elif kind in (9, 10):
        head = _byte(file)
        size = head >> 4 if head >> 4 < 15 else _varint(file)
        for _ in range(min(size, HEADER)):
            _byte(file) if head & 15 in (1, 2) else _value(file, head & 15, depth + 1)
    elif kind == 12:
        _struct(file, depth + 1)
    else:
        raise _NotThrift("the header of a page is damaged")
    return None


def _byte(file: IO[bytes]) -> int:
    byte = file.read(1)
    if not byte:
        raise _NotThrift("the header of a page is cut short, or longer than it may be")
    return byte[0]


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise _NotThrift("the header of a page is damaged")


def _zigzag(file: IO[bytes]) -> int:
    value = _varint(file)
    return value >> 1 if value % 2 == 0 else -(value >> 1) - 1
