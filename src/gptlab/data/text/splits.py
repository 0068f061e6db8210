"""Divide text into training and held-out text by the text alone, the same way for every seed and run."""

import hashlib
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple

import numpy as np

from gptlab.data.text.readers import Chunk
from gptlab.errors import UserError

HEAD = 1 << 16  # characters of a document whose hash chooses its side
FEW = 1 << 16  # documents whose lengths are remembered
ENOUGH = 0.5  # of val_fraction: where whole documents make less, ends of documents are held out instead
MARKS = ("<|endoftext|>", "<|end_of_text|>")  # what stands between documents in many files
DOCUMENT = np.dtype([("digest", "<u8"), ("bucket", "<u2")])  # a line of the list of documents
_DOCUMENT = struct.Struct("<8sH")
_LONGEST = max(map(len, MARKS)) - 1


@dataclass(frozen=True)
class Survey:
    """The result of one pass over a text: its size and hash, and where the held-out part is.

    Documents are held out by the bucket (of 65,536) that the hash of their beginning falls into: equal documents are on
    the same side, and the memory needed does not grow with their number.
    """

    sha256: str
    documents: int
    bytes: int
    held_out: list[int] = field(default_factory=list)  # buckets
    cuts: list[int] = field(default_factory=list)  # or, for each document, the position where its held-out end begins
    marks: dict[str, int] = field(default_factory=dict)  # how often MARKS stand in the text
    whole_share: float = 0.0  # of the text, that whole documents would hold out


def survey(chunks: Iterable[Chunk], val_fraction: float, documents_file: IO[bytes] | None = None) -> Survey:
    """Read all chunks once, and choose what is held out.

    The buckets are held out in their order, each that still fits into `val_fraction` of the bytes. Where they make less
    than half of it (one book, a few long files), the end of each document is held out instead. Raises UserError where
    the documents are too many for that. The hash is of the text and of which of it counts. The list of documents
    (`DOCUMENT`: a hash and the bucket of each) is written into `documents_file`.
    """
    content, document, mask = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    sizes: dict[int, int] = {}
    lengths: list[int] = []
    documents, here, length, counted, masked = 0, -1, 0, True, False
    marks, tail = dict.fromkeys(MARKS, 0), ""

    def end_document() -> None:
        content.update(document.digest())
        if documents_file is not None:
            documents_file.write(_DOCUMENT.pack(document.digest()[:8], here))

    for (text, begins, counts), head in _with_heads(chunks):
        data = text.encode()
        if begins:
            if documents:
                end_document()
            tail = ""
            document, here = hashlib.sha256(), bucket(head)
            documents += 1
            length, counted = 0, True
            if documents <= FEW:
                lengths.append(0)
        if counts != counted:
            mask.update(f"{documents} {length} {counts};".encode())
            counted, masked = counts, True
        document.update(data)
        for mark in MARKS:
            marks[mark] += (tail[1 - len(mark) :] + text).count(mark)
        tail = (tail + text[-_LONGEST:])[-_LONGEST:]
        sizes[here] = sizes.get(here, 0) + len(data)
        length += len(text)
        if documents <= FEW:
            lengths[-1] = length
    if documents:
        end_document()
    if masked:
        content.update(mask.digest())
    return _chosen(content.hexdigest(), sizes, documents, lengths, marks, val_fraction)


class Count(NamedTuple):
    """The figures of some documents, all of which count, for the survey of a text that they are a part of."""

    digests: bytes  # joined
    listed: bytes  # of DOCUMENT
    sizes: dict[int, int]  # bytes of documents by bucket
    lengths: list[int]  # of documents, in characters
    marks: dict[str, int]


def count(texts: Iterable[str]) -> Count:
    """Count documents, each of which is whole."""
    digests, listed, lengths = bytearray(), bytearray(), []
    sizes: dict[int, int] = {}
    marks = dict.fromkeys(MARKS, 0)
    for text in texts:
        data = text.encode()
        digest, here = hashlib.sha256(data).digest(), bucket(text)
        digests += digest
        listed += _DOCUMENT.pack(digest[:8], here)
        sizes[here] = sizes.get(here, 0) + len(data)
        lengths.append(len(text))
        for mark in MARKS:
            marks[mark] += text.count(mark)
    return Count(bytes(digests), bytes(listed), sizes, lengths, marks)


def survey_counts(counts: Iterable[Count], val_fraction: float, documents_file: IO[bytes]) -> Survey:
    """Return what `survey` returns for the text whose documents have been counted, in their order."""
    content, documents = hashlib.sha256(), 0
    sizes: dict[int, int] = {}
    lengths: list[int] = []
    marks = dict.fromkeys(MARKS, 0)
    for each in counts:
        content.update(each.digests)
        documents_file.write(each.listed)
        documents += len(each.lengths)
        lengths += each.lengths[: FEW - len(lengths)]
        for here, size in each.sizes.items():
            sizes[here] = sizes.get(here, 0) + size
        for mark in MARKS:
            marks[mark] += each.marks[mark]
    return _chosen(content.hexdigest(), sizes, documents, lengths, marks, val_fraction)


def _chosen(
    sha256: str, sizes: dict[int, int], documents: int, lengths: list[int], marks: dict[str, int], val_fraction: float
) -> Survey:
    """Choose what is held out of a text that has been read."""
    total = sum(sizes.values())
    room = val_fraction * total
    held_out = []
    for number, size in sorted(sizes.items()):
        if size <= room:
            room -= size
            held_out.append(number)
    whole = val_fraction * total - room
    by_position = whole < ENOUGH * val_fraction * total
    cuts = [int((1 - val_fraction) * length) for length in lengths] if by_position else []
    if documents > FEW and by_position:
        why = f"no document is small enough to be held out, beyond {whole / total:.2%} of the text"
        raise UserError("data.val_fraction", val_fraction, why, "raise it, or give data.val_files")
    held_out = [] if by_position else held_out
    found = {mark: count for mark, count in marks.items() if count}
    return Survey(sha256, documents, total, held_out, cuts, found, whole / max(1, total))


def bucket(head: str) -> int:
    """Return the bucket of a document, by its first characters."""
    return int.from_bytes(hashlib.sha256(head[:HEAD].encode()).digest()[:2], "big")


def divide(
    chunks: Iterable[Chunk], found: Survey, left_out: Collection[int] = frozenset()
) -> Iterator[tuple[str, Chunk]]:
    """Yield each chunk with `train` or `val`, in the order of the text; a chunk on the border is cut in two.

    What would be trained on of the documents whose numbers are `left_out` is passed over.
    """
    number = -1
    for part, begins, chunk in _divided(chunks, found):
        number += begins
        if part == "val" or number not in left_out:
            yield part, chunk


def _divided(chunks: Iterable[Chunk], found: Survey) -> Iterator[tuple[str, bool, Chunk]]:
    """Yield each chunk with its part, and whether a document of the text begins with it."""
    held_out, cuts = frozenset(found.held_out), iter(found.cuts)
    part, left = "train", -1  # characters of this document that remain for training; -1: not cut
    for (text, begins, counts), head in _with_heads(chunks):
        if begins:
            part = "val" if bucket(head) in held_out else "train"
            left = next(cuts, -1)
        if left < 0 or part == "val":
            yield part, begins, Chunk(text, begins, counts)
            continue
        if text[:left]:
            yield "train", begins, Chunk(text[:left], begins, counts)
        if text[left:]:
            part = "val"
            yield "val", begins and not left, Chunk(text[left:], begins=True, counts=counts)
        left -= min(left, len(text))


def _with_heads(chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, str]]:
    """Yield each chunk; one that begins a document comes with the text that chooses its side.

    That text is the first chunk; if some of the document's beginning does not count, it is the first HEAD characters of
    all chunks: a prompt that all documents share must not put them all on one side.
    """
    waiting: list[Chunk] = []
    for chunk in chunks:
        masked = waiting and not all(each.counts for each in (*waiting, chunk))
        if masked and not chunk.begins and sum(len(each.text) for each in waiting) < HEAD:
            waiting.append(chunk)
            continue
        yield from _released(waiting)
        waiting = [chunk] if chunk.begins else []
        if not chunk.begins:
            yield chunk, ""
    yield from _released(waiting)


def _released(waiting: list[Chunk]) -> Iterator[tuple[Chunk, str]]:
    head = "".join(chunk.text for chunk in waiting)
    return ((chunk, head if chunk.begins else "") for chunk in waiting)
