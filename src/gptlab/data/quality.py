"""Compute figures of text and token quality: unused ids, copies, overlap of splits, long documents, hard characters."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gptlab.data.tokens.prepare import Corpus
from gptlab.data.tokens.shards import BLOCK, Tokens, TokenStream
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.openai import OpenAI, gpt2_is_here

BITS = 24  # of the hash of the first, coarse search for an n-gram
COMPARED = 2_000_000  # held-out tokens to encode with GPT-2's tokenizer as well


def id_counts(streams: Iterable[TokenStream], n_vocab: int) -> Tokens:
    """Count each id of the vocabulary, (V + 1,); the last entry counts all ids outside of it."""
    counts = np.zeros(n_vocab + 1, np.int64)
    for stream in streams:
        for block in stream.blocks():
            counts += np.bincount(np.minimum(block, np.int64(n_vocab)).astype(np.int64), minlength=n_vocab + 1)
    return counts


def documents(stream: TokenStream, eot: int, end: int | None = None) -> Iterator[Tokens]:
    """Yield the ids of each document, without the separator and the `end` that the tokenizer may put behind it."""
    starts = stream.document_starts(eot)
    for start, stop in zip(starts, [*starts[1:], len(stream)], strict=True):
        ids = stream[int(start) : int(stop)]
        ids = ids[1:] if len(ids) and ids[0] == eot else ids
        ids = ids[:-1] if len(ids) and ids[-1] == end else ids
        if len(ids):
            yield ids


def copies(streams: Iterable[TokenStream], eot: int, end: int | None = None) -> tuple[int, int]:
    """Count the documents that are equal to an earlier one, and their tokens; takes 16 bytes of memory a document."""
    hashes, sizes = [], []
    for stream in streams:
        for ids in documents(stream, eot, end):
            digest = hashlib.blake2b(ids.astype(np.uint32).tobytes(), digest_size=8).digest()
            hashes.append(np.frombuffer(digest, np.uint64)[0])
            sizes.append(len(ids))
    _, first = np.unique(np.array(hashes, np.uint64), return_index=True)
    return len(hashes) - len(first), int(np.sum(sizes) - np.array(sizes)[first].sum()) if sizes else 0


@dataclass(frozen=True)
class Overlap:
    """The number of distinct n-grams of held-out tokens and of held-out documents, and those found in training."""

    n: int
    ngrams: int
    ngrams_seen: int
    documents: int
    documents_seen: int  # documents with at least one such n-gram


def overlap(train: Iterable[TokenStream], val: TokenStream, eot: int, n: int) -> Overlap:
    """Look for the n-grams of held-out documents in training; takes about 20 bytes of memory per held-out token."""
    per_document = [ngrams(ids, eot, n) for ids in documents(val, eot)]
    known = np.unique(np.concatenate([*per_document, np.empty(0, np.uint64)]))
    coarse = np.zeros(1 << BITS, bool)
    coarse[known >> np.uint64(64 - BITS)] = True
    seen = np.zeros(len(known), bool)
    for stream in train:
        for start in range(0, len(stream), BLOCK):
            grams = ngrams(stream[start : start + BLOCK + n - 1], eot, n)
            grams = grams[coarse[grams >> np.uint64(64 - BITS)]]
            at = np.searchsorted(known, grams)
            at[at == len(known)] = 0
            seen[at[known[at] == grams] if len(known) else at] = True
    hit = sum(bool(seen[np.searchsorted(known, grams)].any()) for grams in per_document)
    return Overlap(n, len(known), int(seen.sum()), len(per_document), hit)


def ngrams(ids: Tokens, eot: int, n: int) -> Tokens:
    """Return a hash of each n consecutive ids without a separator among them, (N,) uint64."""
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
    """Return the longest documents: their numbers of tokens and their beginnings."""
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
    """The characters that are not one token each: how many, their share of the text, the most frequent."""

    different: int
    share: float
    worst: list[dict[str, Any]]


def hard_characters(texts: Iterable[str], tokenizer: Tokenizer, how_many: int) -> HardCharacters:
    """Find the characters that are not one token each, with the `how_many` most frequent."""
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


def audit_figures(corpus: Corpus, pieces: Iterable[str], ngram: int) -> dict[str, Any]:
    """Return sizes, copies, overlap of the splits, the longest documents, ids and hard characters of a corpus.

    `pieces` are all of its text; n-grams of `ngram` tokens count as overlap.
    """
    tokenizer, eot, streams = corpus.tokenizer, corpus.tokenizer.eot, [*corpus.train, corpus.val]
    counts = id_counts(streams, tokenizer.n_vocab)
    repeated, repeated_tokens = copies(streams, eot, tokenizer.end_of_document)
    return {
        "data_hash": corpus.manifest["sha256"],
        **corpus.sizes(),
        "duplicates": {"documents": repeated, "tokens": repeated_tokens},
        "overlap": asdict(overlap(corpus.train, corpus.val, eot, ngram)),
        "longest": longest(streams, tokenizer, 5),
        "ids": {
            "n_vocab": tokenizer.n_vocab,
            "used": int(np.count_nonzero(counts[:-1])),
            "out_of_range": int(counts[-1]),
        },
        **(corpus.unspelled["train"] + corpus.unspelled["val"]).record(),
        "hard_characters": asdict(hard_characters(pieces, tokenizer, 10)),
    }


def tokenizer_fit(corpus: Corpus) -> dict[str, Any]:
    """Return how well a tokenizer fits: bytes per token on held-out text (and GPT-2's), longest and unused tokens."""
    tokenizer, val = corpus.tokenizer, corpus.manifest["val"]
    counts = id_counts(corpus.train, tokenizer.n_vocab)
    unused = [int(i) for i in np.flatnonzero(counts[:-1] == 0) if i != tokenizer.eot]
    spelled = {i: tokenizer.decode_bytes([i]) for i in range(tokenizer.n_vocab) if i != tokenizer.eot}
    longest_first = sorted(spelled, key=lambda i: (-len(spelled[i]), i))
    between = val["documents"] + (0 if tokenizer.end_of_document is None else max(0, val["documents"] - 1))
    return {
        "n_vocab": tokenizer.n_vocab,
        "bytes_per_token": val["bytes"] / (val["tokens"] - between) if val["tokens"] else None,
        "gpt2_bytes_per_token": _gpt2_bytes_per_token(corpus),
        "longest": [spelled[i].decode("utf-8", "replace") for i in longest_first[:10]],
        "unused": len(unused),
        "unused_examples": [spelled[i].decode("utf-8", "replace") for i in unused[-10:]],
    }


def _gpt2_bytes_per_token(corpus: Corpus) -> float | None:
    """Return the bytes per token of GPT-2's tokenizer on the same text; None without its vocabulary."""
    if not gpt2_is_here():
        return None
    ids = corpus.val[0:COMPARED]
    text = corpus.tokenizer.decode(ids[ids != corpus.tokenizer.eot].tolist())
    return len(text.encode()) / max(1, len(OpenAI().build([]).encode_array(text)))
