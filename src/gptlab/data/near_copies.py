"""Find documents that are nearly copies of earlier ones, by MinHash over words (Broder 1997) with rensa."""

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptlab.data.partitions import AT_ONCE, Partitions, scratch
from gptlab.data.quality import documents, ngrams
from gptlab.data.tokens.prepare import Corpus
from gptlab.errors import UserError

WORDS = 3  # in a row, that are compared; an edit of one word in ten leaves half of them or more in common
BANDS, ROWS = 42, 3  # of a signature: documents are compared that are equal in all rows of a band
SIMILAR = 0.4  # of what two documents have together, that they have in common
WORDS_AT_ONCE = 1 << 20
SEED = 0
SHOWN = 5
BORDER = 1 << 32  # no hash of a word
SIGNATURES = "signatures"  # a file of _TEXT
COMPARED = 1 << 14  # pairs of signatures that are compared at once
LONG = 20  # characters of a mean word, beyond which there are no words between spaces

Hashes = np.ndarray[Any, np.dtype[Any]]
_TEXT = np.dtype([("number", "<i8"), ("signature", "<u4", (BANDS * ROWS,))])
_BAND = np.dtype([("key", "<u8"), ("row", "<i8")])
_ALIKE = np.dtype([("key", "<u8"), ("document", "<i8"), ("earlier", "<i8"), ("similarity", "<f8")])


class Pair(NamedTuple):
    """Hold a document and an earlier one that it is nearly a copy of, by their numbers."""

    document: int
    earlier: int
    similarity: float  # an estimate of the Jaccard index, with a standard error of at most 0.045


def near_copies(texts: Iterable[str]) -> Iterator[Pair]:
    """Yield each text that is nearly a copy of an earlier one, with the most similar earlier one that was found.

    They come in the order of the texts. Takes about 1.2 kB of disk per text, 24 bytes more for each pair that is
    compared, and the memory of the longest text. Texts with fewer than three words are not compared.
    """
    with scratch() as name:
        folder = Path(name)
        texts_compared = _write_signatures(texts, folder)
        bands = Partitions(folder / "bands", _BAND, texts_compared * BANDS)
        for start in range(0, texts_compared, AT_ONCE // BANDS):
            texts_here = _signatures(folder, np.arange(start, min(texts_compared, start + AT_ONCE // BANDS)))
            for band in range(BANDS):
                bands.add(_band_keys(texts_here["signature"], band), start + np.arange(len(texts_here)))
        alike = Partitions(folder / "pairs", _ALIKE, texts_compared, max(1, texts_compared))
        for part in range(bands.count):
            records = bands.part(part)
            _, first, group = np.unique(records["key"], return_index=True, return_inverse=True)
            later, earlier = records["row"], records["row"][first[group]]  # the first one that is equal in this band
            pairs = np.stack([later, earlier])[:, earlier < later]
            for start in range(0, pairs.shape[1], COMPARED):
                rows = pairs[:, start : start + COMPARED]
                one, other = _signatures(folder, rows[0]), _signatures(folder, rows[1])
                similar = (one["signature"] == other["signature"]).mean(1)
                kept = similar >= SIMILAR
                alike.add(rows[0, kept], one["number"][kept], other["number"][kept], similar[kept])
        for part in range(alike.count):
            found = alike.part(part)
            found = found[np.lexsort((found["earlier"], -found["similarity"], found["key"]))]
            for best in found[np.diff(found["key"], prepend=np.uint64(1 << 63)) != 0]:
                yield Pair(int(best["document"]), int(best["earlier"]), float(best["similarity"]))


def _write_signatures(texts: Iterable[str], folder: Path) -> int:
    """Write a row (`_TEXT`) for each text that can be compared; return how many there are."""
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise UserError("near", "true", f"needs {error.name}", "pip install 'gptlab[near]'") from error
    number = 0
    with (folder / SIGNATURES).open("wb") as file:
        for which, hashes, counts in _batches(texts):
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
            matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, BANDS * ROWS, SEED)
            rows = np.empty(len(which), _TEXT)
            rows["number"], rows["signature"] = which, np.array(matrix.to_rows(), np.uint32)
            file.write(rows.tobytes())
            number += len(which)
    return number


def _signatures(folder: Path, rows: Hashes) -> Hashes:
    """Return some rows of the file of signatures, (N,) `_TEXT`; its pages are given back at once."""
    found: Hashes = np.memmap(folder / SIGNATURES, _TEXT, "r")[rows]
    return np.array(found)


def _band_keys(signatures: Hashes, band: int) -> Hashes:
    """Return a number for each text that is equal where the rows of a band are, (N,) uint64."""
    keys = np.full(len(signatures), np.uint64(band + 1))
    for row in range(band * ROWS, (band + 1) * ROWS):
        keys = (keys + signatures[:, row]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return keys * np.uint64(0xBF58476D1CE4E5B9)


def _batches(texts: Iterable[str]) -> Iterator[tuple[Hashes, Hashes, Hashes]]:
    """Yield numbers of texts, the hashes of all their shingles in a row, and how many of those each text has."""
    waiting: list[Hashes] = []
    which: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        words = _words(text)
        if len(words) < WORDS:
            continue
        which.append(number)
        waiting += [words, np.array([BORDER], np.uint64)]
        size += len(words)
        if size >= WORDS_AT_ONCE:
            yield _shingles(which, waiting)
            waiting, which, size = [], [], 0
    if which:
        yield _shingles(which, waiting)


def _shingles(which: list[int], waiting: list[Hashes]) -> tuple[Hashes, Hashes, Hashes]:
    counts = np.array([len(words) - WORDS + 1 for words in waiting[::2]])
    return np.array(which), ngrams(np.concatenate(waiting), BORDER, WORDS), counts


def _words(text: str) -> Hashes:
    """Return a number for each word, in lower case; for each character where words are not set apart, (N,) uint64."""
    words = text.lower().encode("utf-8", "surrogatepass").split()
    if len(text) > LONG * len(words):
        return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    return np.fromiter(map(zlib.crc32, words), np.uint64, len(words))


def near_figures(corpus: Corpus) -> dict[str, Any]:
    """Return how many documents of a corpus are nearly copies of an earlier one, and of a training one that is not."""
    train = sum(1 for stream in corpus.train for _ in documents(stream, corpus.tokenizer.eot))
    number = of_training = 0
    first: list[Pair] = []
    for pair in near_copies(_texts(corpus)):
        number += 1
        of_training += pair.document >= train > pair.earlier
        first += [pair] if number <= SHOWN else []
    shown = {which: "" for pair in first for which in pair[:2]}
    for which, text in enumerate(_texts(corpus)) if shown else ():
        if which in shown:
            shown[which] = " ".join(text[:200].split())[:60]
    return {
        "documents": number,
        "held_out_of_training": of_training,
        "similar_from": SIMILAR,
        "pairs": [
            {**pair._asdict(), "begins": shown[pair.document], "earlier_begins": shown[pair.earlier]} for pair in first
        ],
    }


def _texts(corpus: Corpus) -> Iterator[str]:
    """Yield the text of each document, first those that are trained on."""
    tokenizer = corpus.tokenizer
    for stream in [*corpus.train, corpus.val]:
        for ids in documents(stream, tokenizer.eot):
            yield tokenizer.decode(ids[ids < tokenizer.n_vocab].tolist())
