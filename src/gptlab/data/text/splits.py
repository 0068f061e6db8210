"""What is trained on and what is held out: a function of the text alone, the same for every seed and run."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gptlab.data.text.readers import Chunk
from gptlab.errors import UserError

HEAD = 1 << 16  # characters of a document that choose its side
FEW = 1 << 16  # documents whose lengths are remembered


@dataclass(frozen=True)
class Survey:
    """What one pass over a text finds out: its size and hash, and where the held-out part is.

    Documents are held out by the bucket (of 65,536) that the hash of their beginning falls into: equal documents are on
    the same side, and it takes no memory to remember, however many there are.
    """

    sha256: str
    documents: int
    bytes: int
    held_out: list[int] = field(default_factory=list)  # buckets
    cuts: list[int] = field(default_factory=list)  # or the character of each document where its held-out end begins


def survey(chunks: Iterable[Chunk], val_fraction: float) -> Survey:
    """Read all of it once. The buckets are held out in their order, each that still fits into `val_fraction` of the
    bytes. Where none fits (one book, a few long files), the end of each document is held out."""
    content, document = hashlib.sha256(), hashlib.sha256()
    sizes: dict[int, int] = {}
    lengths: list[int] = []
    documents, here = 0, -1
    for text, begins in chunks:
        data = text.encode()
        if begins:
            if documents:
                content.update(document.digest())
            document, here = hashlib.sha256(), bucket(text)
            documents += 1
            if documents <= FEW:
                lengths.append(0)
        document.update(data)
        sizes[here] = sizes.get(here, 0) + len(data)
        if documents <= FEW:
            lengths[-1] += len(text)
    if documents:
        content.update(document.digest())
    total = sum(sizes.values())
    room = val_fraction * total
    held_out = []
    for number, size in sorted(sizes.items()):
        if size <= room:
            room -= size
            held_out.append(number)
    by_position = val_fraction > 0 and not held_out
    cuts = [int((1 - val_fraction) * length) for length in lengths] if by_position else []
    if documents > FEW and by_position:
        why = "no document is small enough to be held out"
        raise UserError("data.val_fraction", val_fraction, why, "raise it, or give data.val_files")
    return Survey(content.hexdigest(), documents, total, held_out, cuts)


def bucket(text: str) -> int:
    """Of a document, by its beginning."""
    return int.from_bytes(hashlib.sha256(text[:HEAD].encode()).digest()[:2], "big")


def divide(chunks: Iterable[Chunk], found: Survey) -> Iterator[tuple[str, Chunk]]:
    """Each chunk with `train` or `val`, in the order of the text; a chunk on the border is cut in two."""
    held_out, cuts = frozenset(found.held_out), iter(found.cuts)
    part, left = "train", -1  # characters of this document that are still to be trained on; -1: it is not cut
    for text, begins in chunks:
        if begins:
            part = "val" if bucket(text) in held_out else "train"
            left = next(cuts, -1)
        if left < 0 or part == "val":
            yield part, Chunk(text, begins)
            continue
        if text[:left]:
            yield "train", Chunk(text[:left], begins)
        if text[left:]:
            part = "val"
            yield "val", Chunk(text[left:], begins=True)
        left -= min(left, len(text))
