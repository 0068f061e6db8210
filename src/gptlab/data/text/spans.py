"""Divide files of JSON lines into spans of whole lines, which several processes read independently."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gptlab.data.text.readers import LONGEST, Chunk, Reading, has_lines, read_lines
from gptlab.data.text.splits import Count, count

SPAN = 1 << 21  # bytes of a span, at least


class Span(NamedTuple):
    """Whole lines of one file, or of several that follow one another."""

    pieces: tuple[tuple[Path, int, int], ...]  # files, with the bytes where the lines begin and end
    reading: Reading
    key: str  # the field that names the files

    @property
    def size(self) -> int:
        """The number of bytes of the lines."""
        return sum(stop - start for _, start, stop in self.pieces)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the documents."""
        for path, start, stop in self.pieces:
            yield from read_lines(path, start, stop, self.reading, self.key)


def counted_span(span: Span) -> tuple[Count, int]:
    """Return what there is to know of a span's documents for the survey of the text, and its bytes."""
    return count(chunk.text for chunk in span.chunks()), span.size


def spans(paths: Sequence[Path], reading: Reading, key: str) -> Iterator[Span] | None:
    """Yield spans that have the documents of all files in their order; None unless all files are JSON lines."""
    return _divided(paths, reading, key) if all(has_lines(path, reading) for path in paths) else None


def _divided(paths: Sequence[Path], reading: Reading, key: str) -> Iterator[Span]:
    pieces: list[tuple[Path, int, int]] = []
    size = 0
    for path in paths:
        with path.open("rb") as file:
            start, end = 0, path.stat().st_size
            while start < end:
                file.seek(start + SPAN - size - 1)
                file.readline(LONGEST)  # a longer line is refused by whoever reads it
                stop = min(end, file.tell())
                pieces.append((path, start, stop))
                size, start = size + stop - start, stop
                if size >= SPAN:
                    yield Span(tuple(pieces), reading, key)
                    pieces, size = [], 0
    if pieces:
        yield Span(tuple(pieces), reading, key)
