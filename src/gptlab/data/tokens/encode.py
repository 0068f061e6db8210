"""Encode text in several processes, and write it in sections, so that a killed run can continue."""

import contextlib
import errno
import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from gptlab.data.text.readers import Chunk, byte_length
from gptlab.data.text.spans import Span
from gptlab.data.text.splits import bucket
from gptlab.data.tokens.shards import dtype_for
from gptlab.data.tokens.workers import Progress, Workers
from gptlab.data.tokens.writer import Done, Mask, ShardWriter
from gptlab.errors import UserError, require
from gptlab.files import write_atomically
from gptlab.tokenizers import Tokenizer, load_tokenizer

JOB = 1 << 20  # characters that are encoded at once
LONGEST = 1 << 26  # characters that are kept where there is no place to cut
SECTION = 1 << 28  # characters of a shard


class Unit(Protocol):
    """A piece of text that one process encodes at once."""

    @property
    def size(self) -> int:
        """The length of it, in characters or bytes."""

    def jobs(self, tokenizer: Tokenizer) -> Iterable["Job"]:
        """Return what there is to encode."""


class Job(NamedTuple):
    """Pieces of documents of one part: each begins a document or continues one, and counts or does not."""

    part: str
    texts: list[str]
    begins: list[bool]
    counts: list[bool]
    before: bool  # whether the piece before the first one counts
    first: bool = False  # whether its part begins with it

    @property
    def size(self) -> int:
        """The number of characters."""
        return sum(map(len, self.texts))

    def jobs(self, tokenizer: Tokenizer) -> "list[Job]":
        """Return the job itself."""
        return [self]


class Lines(NamedTuple):
    """Documents that are read where they are encoded, and the buckets that are held out of them; None: all are."""

    span: Span
    held_out: frozenset[int] | None
    parts: frozenset[str]  # that are encoded

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.span.size

    def jobs(self, tokenizer: Tokenizer) -> Iterator[Job]:
        """Read the documents."""
        chunks = ((self._part(chunk), chunk) for chunk in self.span.chunks())
        return jobs(((part, chunk) for part, chunk in chunks if part in self.parts), tokenizer)

    def _part(self, chunk: Chunk) -> str:
        return "val" if self.held_out is None or bucket(chunk.text) in self.held_out else "train"


def jobs(chunks: Iterable[tuple[str, Chunk]], tokenizer: Tokenizer) -> Iterator[Job]:
    """Yield the chunks as pieces to encode.

    A document is cut only where that does not change its tokens, and where its loss mask changes.
    """
    waiting = {part: Job(part, [], [], [], before=True, first=True) for part in ("train", "val")}
    sizes = dict.fromkeys(waiting, 0)

    def add(part: str, text: str, begins: bool, counts: bool) -> Iterator[Job]:
        waiting[part].texts.append(text)
        waiting[part].begins.append(begins)
        waiting[part].counts.append(counts)
        sizes[part] += len(text)
        if sizes[part] >= JOB:
            yield waiting[part]
            waiting[part], sizes[part] = Job(part, [], [], [], before=counts), 0

    of, rest, fresh, counted = "train", "", True, True  # the unfinished document, and whether it is all there
    enough = JOB  # characters to search for a cut; doubled when none is found
    for part, (text, begins, counts) in chunks:
        if rest and (begins or counts != counted):
            yield from add(of, rest, fresh, counted)
            rest, enough = "", JOB
        fresh = fresh if rest else begins
        of, counted = part, counts
        rest += text
        if len(rest) >= enough:
            if cut := tokenizer.last_cut(rest):
                yield from add(of, rest[:cut], fresh, counted)
                rest, fresh, enough = rest[cut:], False, JOB
                continue
            why = f"has {len(rest):,} characters in a row that this tokenizer takes as a whole"
            require(len(rest) <= LONGEST, "data", "text", why, "divide its documents, or try tokenizer=bpe or char")
            enough = 2 * len(rest)
    if rest:
        yield from add(of, rest, fresh, counted)
    yield from (job for job in waiting.values() if job.texts)


def encode(job: Job, tokenizer: Tokenizer) -> Done:
    """Return the ids of a job, with a separator before every document, so that its first token is predicted too.

    A separator counts where the end of the document before it does. Where the tokenizer ends a document by another id
    than it begins one, such as </s> before <s>, the end counts instead, and no model has to predict the beginning.
    """
    end, dtype = tokenizer.end_of_document, dtype_for(tokenizer.n_vocab)
    between = np.array([tokenizer.eot] if end is None else [end, tokenizer.eot], dtype)
    masked = end is not None or not all((job.before, *job.counts))
    arrays, mask, starts, at = [], list[Mask](), list[int](), 0
    size = target_bytes = unspelled = 0
    before, first = job.before, job.first
    every = zip(job.texts, tokenizer.encode_arrays(job.texts), job.begins, job.counts, strict=True)
    for text, ids, begins, counts in every:
        unspelled += tokenizer.unspelled(text, ids)
        if begins:
            arrays.append(between[-1:] if first else between)
            at += len(arrays[-1])
            starts.append(at - 1)
            if masked:
                mask.append(np.array([before] if end is None else [before, 0][-len(arrays[-1]) :], np.uint8))
        arrays.append(ids)
        at += len(ids)
        if masked:
            mask.append(np.full(len(ids), counts, np.uint8))
        length = byte_length(text)
        size += length
        target_bytes += length * counts
        before, first = counts, False
    joined = np.concatenate(arrays, dtype=dtype, casting="unsafe").tobytes()
    loss_mask = np.concatenate(mask) if masked else None
    lost = unspelled if unspelled or tokenizer.unknown is not None else None
    return Done(job.part, joined, np.array(starts, np.uint32), size, loss_mask, target_bytes, job.size, lost)


def write_sections(
    work: Path,
    units: Iterable[Unit],
    tokenizer: tuple[Tokenizer, Path],
    pool: Workers | None,
    progress: Progress,
    section: int = SECTION,
) -> list[dict[str, Any]]:
    """Fill `work` with the shards of each section, and return their manifests by section and part.

    The units are encoded in the processes of a pool (None: here), which load the tokenizer from its folder. Sections
    that exist already are kept. Raises UserError if the disk is full.
    """
    loaded, folder = tokenizer
    records: list[dict[str, Any]] = []
    for number, group in enumerate(_sections(iter(units), section)):
        path = work / f"section-{number:05d}.json"
        if not path.exists():
            here, there = functools.partial(_encoded, tokenizer=loaded), functools.partial(_encoded_there, folder)
            encoded = pool.map(there, group) if pool else map(here, group)
            try:
                every = itertools.chain.from_iterable(encoded)
                record = _write_section(work, number, every, dtype_for(loaded.n_vocab), progress)
                write_atomically(path, json.dumps(record).encode())
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
                todo = "make room and run it again: what is written so far is kept"
                raise UserError("data", work, f"cannot be written ({error.strerror})", todo) from error
        else:
            for _ in group:
                pass  # read past it
            progress(sum(part["bytes"] for part in json.loads(path.read_text(encoding="utf-8")).values()))
        records.append(json.loads(path.read_text(encoding="utf-8")))
    return records


def _sections(every: Iterator[Unit], size: int) -> Iterator[Iterator[Unit]]:
    """Group consecutive units of about `size` altogether; each group must be used up before the next."""

    def group(first: Unit) -> Iterator[Unit]:
        seen = 0
        for unit in itertools.chain([first], every):
            yield unit
            seen += unit.size
            if seen >= size:
                return

    for first in every:
        yield group(first)


def _write_section(
    work: Path, number: int, results: Iterator[Done], dtype: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Write a shard for each part that has text here, and return their manifests."""
    writers: dict[str, ShardWriter] = {}
    with contextlib.ExitStack() as files:
        for done in results:
            if done.part not in writers:
                writers[done.part] = ShardWriter(work / f"{done.part}-{number:05d}.bin", dtype, files)
            writers[done.part].add(done)
            progress(done.bytes)
        return {part: writer.finish() for part, writer in writers.items()}


def _encoded(unit: Unit, tokenizer: Tokenizer) -> list[Done]:
    return [encode(job, tokenizer) for job in unit.jobs(tokenizer)]


def _encoded_there(folder: Path, unit: Unit) -> list[Done]:
    """Encode in a process of the pool, which loads a tokenizer once."""
    return _encoded(unit, _loaded(folder))


_loaded = functools.lru_cache(maxsize=1)(load_tokenizer)
