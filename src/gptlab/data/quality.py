"""What can be counted in tokens and text: unused ids, copies, overlap of splits, long documents, hard characters."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.data.tokens.shards import BLOCK, Tokens, TokenStream
from gptlab.tokenizers import Tokenizer

BITS = 24  # of the first, coarse look for an n-gram


def id_counts(streams: Iterable[TokenStream], n_vocab: int) -> Tokens:
    """How often each id occurs, (V,); in the last place all that are no ids of this vocabulary, (V + 1,)."""
    counts = np.zeros(n_vocab + 1, np.int64)
    for stream in streams:
        for block in stream.blocks():
            counts += np.bincount(np.minimum(block, n_vocab), minlength=n_vocab + 1)
    return counts


def documents(stream: TokenStream, eot: int) -> Iterator[Tokens]:
    """The ids of each document, without the separator."""
    starts = stream.document_starts(eot)
    for start, stop in zip(starts, [*starts[1:], len(stream)], strict=True):
        ids = stream[int(start) : int(stop)]
        ids = ids[1:] if len(ids) and ids[0] == eot else ids
        if len(ids):
            yield ids


def copies(streams: Iterable[TokenStream], eot: int) -> tuple[int, int]:
    """(documents that are equal to an earlier one, their tokens); takes 16 bytes of memory a document."""
    hashes, sizes = [], []
    for stream in streams:
        for ids in documents(stream, eot):
            digest = hashlib.blake2b(ids.astype(np.uint32).tobytes(), digest_size=8).digest()
            hashes.append(np.frombuffer(digest, np.uint64)[0])
            sizes.append(len(ids))
    _, first = np.unique(np.array(hashes, np.uint64), return_index=True)
    return len(hashes) - len(first), int(np.sum(sizes) - np.array(sizes)[first].sum()) if sizes else 0


@dataclass(frozen=True)
class Overlap:
    """How many of the distinct n-grams of held-out tokens, and of the held-out documents, are found in training."""

    n: int
    ngrams: int
    ngrams_seen: int
    documents: int
    documents_seen: int  # documents with at least one such n-gram


def overlap(train: Iterable[TokenStream], val: TokenStream, eot: int, n: int) -> Overlap:
    """n-grams do not go across documents; takes some 20 bytes of memory per held-out token."""
    per_document = [_ngrams(ids, eot, n) for ids in documents(val, eot)]
    known = np.unique(np.concatenate([*per_document, np.empty(0, np.uint64)]))
    coarse = np.zeros(1 << BITS, bool)
    coarse[known >> np.uint64(64 - BITS)] = True
    seen = np.zeros(len(known), bool)
    for stream in train:
        for start in range(0, len(stream), BLOCK):
            grams = _ngrams(stream[start : start + BLOCK + n - 1], eot, n)
            grams = grams[coarse[grams >> np.uint64(64 - BITS)]]
            at = np.searchsorted(known, grams)
            at[at == len(known)] = 0
            seen[at[known[at] == grams] if len(known) else at] = True
    hit = sum(bool(seen[np.searchsorted(known, grams)].any()) for grams in per_document)
    return Overlap(n, len(known), int(seen.sum()), len(per_document), hit)


def _ngrams(ids: Tokens, eot: int, n: int) -> Tokens:
    """A hash of each n ids in a row that have no separator among them, (N,) uint64."""
    count = len(ids) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    hashes = np.zeros(count, np.uint64)
    for j in range(n):
        hashes = hashes * np.uint64(0xBF58476D1CE4E5B9) + mixed[j : j + count]
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0x94D049BB133111EB)
    separators = np.concatenate([[0], np.cumsum(ids == eot)])
    return hashes[separators[n:] == separators[:-n]]


def longest(streams: Iterable[TokenStream], tokenizer: Tokenizer, how_many: int) -> list[dict[str, Any]]:
    """The longest documents: their tokens and how they begin."""
    found: list[tuple[int, str]] = []
    for stream in streams:
        starts = stream.document_starts(tokenizer.eot)
        sizes = np.diff(np.append(starts, len(stream)))
        for i in np.argsort(-sizes, kind="stable")[:how_many]:
            begin = stream[int(starts[i]) : int(starts[i]) + min(40, int(sizes[i]))]
            text = tokenizer.decode([int(t) for t in begin if t != tokenizer.eot and t < tokenizer.n_vocab])
            found.append((int(sizes[i]), " ".join(text.split())[:60]))
    found.sort(key=lambda document: -document[0])
    return [{"tokens": size, "begins": text} for size, text in found[:how_many]]


@dataclass(frozen=True)
class HardCharacters:
    """Characters that are not one token each: how many different ones, their share of the text, the most frequent."""

    different: int
    share: float
    worst: list[dict[str, Any]]


def hard_characters(texts: Iterable[str], tokenizer: Tokenizer, how_many: int) -> HardCharacters:
    counts = np.zeros(0x110000, np.int64)
    for text in texts:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        values, times = np.unique(points, return_counts=True)
        counts[values] += times
    hard = []
    for point in np.flatnonzero(counts):
        ids = tokenizer.encode(chr(point))
        if len(ids) != 1 or ids[0] == tokenizer.unknown:
            hard.append((int(counts[point]), int(point), len(ids)))
    hard.sort(key=lambda item: (-item[0], item[1]))
    worst = [{"character": chr(point), "times": times, "tokens": n} for times, point, n in hard[:how_many]]
    return HardCharacters(len(hard), sum(times for times, _, _ in hard) / max(1, int(counts.sum())), worst)
