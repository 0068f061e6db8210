"""Survey the texts of a corpus: what is held out of each, and which documents are therefore not trained on."""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from gptlab.data.text.copies import Listed, left_out
from gptlab.data.text.opened import bytes_read
from gptlab.data.text.readers import Chunk, byte_length
from gptlab.data.text.sources import TextData, identity
from gptlab.data.text.spans import Span, counted_span
from gptlab.data.text.splits import Count, Survey, divide, survey, survey_counts
from gptlab.data.tokens.workers import Progress, Workers, is_worth_it
from gptlab.errors import UserError, require
from gptlab.files import cache_dir, short, write_atomically

LAYOUT = 3  # raise when the meaning of a cached survey changes


@dataclass
class Watch:
    """Be told how far the work is: what begins and how many bytes it takes, then the bytes as they go by."""

    begin: Callable[[str, int], None] = lambda what, size: None
    advance: Progress = lambda size: None


@dataclass(frozen=True)
class Surveyed:
    """Hold a source of text and what is known of it."""

    name: str  # within a mixture
    source: TextData
    found: Survey
    apart: bool  # the held-out part is not taken from this text
    left_out: frozenset[int]  # numbers of documents that are not trained on, because they are held out elsewhere

    def divided(self) -> Iterator[tuple[str, Chunk]]:
        """Yield the text with its parts, `train` and `val`."""
        yield from divide(self.source.chunks(), self.found, self.left_out)
        yield from (("val", chunk) for chunk in self.source.held_out() or [])

    def spans(self) -> Iterator[tuple[Span, frozenset[int] | None]] | None:
        """Return the same text in spans, each with the buckets that are held out of it (None: all of it is).

        None where a part of it cannot be read in spans, or depends on the numbers of its documents.
        """
        trained, held = self.source.spans(), self.source.spans(held_out=True) if self.apart else iter(())
        if trained is None or held is None or self.found.cuts or self.left_out:
            return None
        buckets = frozenset(self.found.held_out)
        return itertools.chain(((span, buckets) for span in trained), ((span, None) for span in held))

    @property
    def split(self) -> tuple[Any, ...]:
        """The values that identify this text and its training part."""
        found = self.found
        return (found.sha256, found.held_out, found.cuts, *([sorted(self.left_out)] if self.left_out else []))

    def notes(self, val: dict[str, Any]) -> list[str]:
        """Return in sentences what should be said of the text; `val` has the sizes of its held-out part."""
        found, notes = self.found, self.source.notes()
        if not self.apart:
            share = f"{val['bytes'] / found.bytes:.1%} of the text"
            if found.documents == 1 and found.cuts:
                notes.append(f"held out: the end of the only document, {share}")
            elif found.cuts:
                whole = f"whole ones would make {found.whole_share:.2%}"
                notes.append(f"held out: the ends of all {found.documents:,} documents, {share} ({whole})")
            else:
                notes.append(f"held out: {val['documents']:,} whole documents, {share}")
        if self.left_out:
            notes.append(f"{len(self.left_out):,} documents are also held out: they are not trained on")
        if found.marks and getattr(self.source, "separator", "") is None:
            for mark, count in found.marks.items():
                todo = f"if it stands between documents of plain files, give 'data.separator=\"{mark}\"'"
                notes.append(f"{mark} stands {count:,} times in the text and is read as ordinary text: {todo}")
        return [f"{self.name}: {note}" if self.name else note for note in notes]


def survey_all(sources: dict[str, TextData], watch: Watch, pool: Workers) -> list[Surveyed]:
    """Survey the texts of a corpus, each once: what was found is cached.

    Raises UserError where one has no text, or where nothing is left to train on.
    """
    listed = [_surveyed(source, watch, pool) for source in sources.values()]
    apart = [_surveyed(source, watch, pool, apart=True) for source in sources.values() if source.held_out() is not None]
    every = left_out(listed, apart)
    surveyed = []
    for (name, source), each, numbers in zip(sources.items(), listed, every, strict=True):
        trained = sum(int((length > 0).sum()) for _, length in each.blocks()) if numbers else 1
        key, kind = f"data.parts.{name}" if name else "data", type(source).__name__.lower()
        require(len(numbers) < max(1, trained), key, kind, "all of its documents are held out too", "give others")
        is_apart = source.held_out() is not None
        surveyed.append(Surveyed(name, source, each.found, is_apart, frozenset(numbers)))
    return surveyed


def counted(chunks: Iterable[Chunk], watch: Watch) -> Iterator[Chunk]:
    """Yield chunks, and tell how many bytes have gone by."""
    for chunk in chunks:
        yield chunk
        watch.advance(byte_length(chunk.text))


def _surveyed(source: TextData, watch: Watch, pool: Workers, apart: bool = False) -> Listed:
    """Survey a source, or its held-out part that comes `apart`; it is read only once."""
    key = repr((LAYOUT, identity(source), source.version(), apart))
    path = cache_dir() / "surveys" / f"{short(key)}.json"
    documents = path.with_suffix(".documents")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            watch.begin("reading", source.file_bytes(apart) or 0)
            with Path(f"{documents}.partial").open("wb") as file:
                found = _read(source, apart, watch, pool, file)
            kind = identity(source)["kind"].lower()
            require(apart or found.bytes > 0, "data", kind, "has no text", "give files with some")
            os.replace(file.name, documents)
            write_atomically(path, json.dumps(dataclasses.asdict(found)).encode())
    return Listed(documents, Survey(**json.loads(path.read_text(encoding="utf-8"))), apart)


def _read(source: TextData, apart: bool, watch: Watch, pool: Workers, file: IO[bytes]) -> Survey:
    """Read a source, or its held-out part that comes `apart`, and write the list of documents into a file."""
    held_out, size = source.held_out(), source.file_bytes(apart)
    val_fraction = 0.0 if held_out is not None else source.val_fraction
    if size is not None and is_worth_it(size, pool) and (spans := source.spans(apart)) is not None:
        try:
            return survey_counts(_counts(spans, watch, pool), val_fraction, file)
        except UserError:  # which does not know where it stands in the file: the text is read again as a whole
            file.seek(0)
            file.truncate()
    chunks = itertools.chain(held_out or []) if apart else source.chunks()
    with bytes_read(watch.advance if size else None):
        return survey(counted(chunks, watch) if size is None else chunks, val_fraction, file)


def _counts(spans: Iterator[Span], watch: Watch, pool: Workers) -> Iterator[Count]:
    for counts, size in pool.map(counted_span, spans):
        watch.advance(size)
        yield counts
