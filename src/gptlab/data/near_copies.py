"""Find documents that are nearly copies of earlier ones, by MinHash over words (Broder 1997) with rensa."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gptlab.data.quality import documents, ngrams
from gptlab.data.tokens.prepare import Corpus
from gptlab.errors import UserError

WORDS = 3  # in a row, that are compared; an edit of one word in ten leaves half of them or more in common
BANDS, ROWS = 42, 3  # of a signature: documents are compared that are equal in all rows of a band
SIMILAR = 0.4  # of what two documents have together, that they have in common
AT_ONCE = 1 << 20  # words
SEED = 0
SHOWN = 5
BORDER = 1 << 32  # no hash of a word
LONG = 20  # characters of a mean word, beyond which there are no words between spaces

Hashes = np.ndarray[Any, np.dtype[Any]]


class Pair(NamedTuple):
    """Hold a document and an earlier one that it is nearly a copy of, by their numbers."""

    document: int
    earlier: int
    similarity: float  # an estimate of the Jaccard index, with a standard error of at most 0.045


def near_copies(texts: Iterable[str]) -> list[Pair]:
    """Return each text that is nearly a copy of an earlier one, with the most similar earlier one that was found.

    Takes about 1 kB of memory per text. Texts with fewer than three words are not compared.
    """
    numbers, signatures = _signatures(texts)
    best: dict[int, tuple[float, int]] = {}
    for band in range(BANDS):
        rows = np.ascontiguousarray(signatures[:, band * ROWS : (band + 1) * ROWS])
        keys = rows.view(np.dtype((np.void, rows.itemsize * ROWS))).ravel()
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        earlier = first[group]  # the first one of those that are equal in this band
        later = np.flatnonzero(earlier < np.arange(len(keys)))
        for start in range(0, len(later), 1 << 16):
            here = later[start : start + (1 << 16)]
            similar = (signatures[here] == signatures[earlier[here]]).mean(1)
            for i in np.flatnonzero(similar >= SIMILAR).tolist():
                found = (float(similar[i]), -int(numbers[earlier[here[i]]]))
                number = int(numbers[here[i]])
                best[number] = max(best.get(number, found), found)
    return [Pair(number, -earlier, similarity) for number, (similarity, earlier) in sorted(best.items())]


def _signatures(texts: Iterable[str]) -> tuple[Hashes, Hashes]:
    """Return the numbers of the texts that can be compared (N,), and their signatures (N, BANDS * ROWS) uint32."""
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise UserError("near", "true", f"needs {error.name}", "pip install 'gptlab[near]'") from error
    numbers, found = [np.empty(0, np.int64)], [np.empty((0, BANDS * ROWS), np.uint32)]
    for which, hashes, counts in _batches(texts):
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, BANDS * ROWS, SEED)
        numbers.append(which)
        found.append(np.array(matrix.to_rows(), np.uint32))
    return np.concatenate(numbers), np.concatenate(found)


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
        if size >= AT_ONCE:
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
    pairs = near_copies(_texts(corpus))
    shown = {number: "" for pair in pairs[:SHOWN] for number in pair[:2]}
    for number, text in enumerate(_texts(corpus)) if shown else ():
        if number in shown:
            shown[number] = " ".join(text[:200].split())[:60]
    return {
        "documents": len(pairs),
        "held_out_of_training": sum(pair.document >= train > pair.earlier for pair in pairs),
        "similar_from": SIMILAR,
        "pairs": [
            {**pair._asdict(), "begins": shown[pair.document], "earlier_begins": shown[pair.earlier]}
            for pair in pairs[:SHOWN]
        ],
    }


def _texts(corpus: Corpus) -> Iterator[str]:
    """Yield the text of each document, first those that are trained on."""
    tokenizer = corpus.tokenizer
    for stream in [*corpus.train, corpus.val]:
        for ids in documents(stream, tokenizer.eot):
            yield tokenizer.decode(ids[ids < tokenizer.n_vocab].tolist())
