"""Compute figures of text and token quality: unused ids, copies, overlap of splits, long documents, hard characters."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.partitions import AT_ONCE, Partitions, scratch
from gptlab.data.tokens.prepare import Corpus
from gptlab.data.tokens.shards import Tokens, TokenStream
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.openai import OpenAI, gpt2_is_here

BLOCK = 1 << 20  # tokens looked at at once
BITS = 24  # of the hash of the first, coarse search for an n-gram
_KEY = np.dtype([("key", "<u8")])
_HELD_OUT = np.dtype([("key", "<u8"), ("document", "<u8")])
_DOCUMENT = np.dtype([("key", "<u8"), ("tokens", "<i8")])
COMPARED = 2_000_000  # held-out tokens to encode with GPT-2's tokenizer as well


def id_counts(streams: Iterable[TokenStream], n_vocab: int) -> Tokens:
    """Count each id of the vocabulary, (V + 1,); the last entry counts all ids outside of it."""
    counts = np.zeros(n_vocab + 1, np.int64)
    for stream in streams:
        for block in stream.blocks():
            counts += np.bincount(np.minimum(block, np.int64(n_vocab)).astype(np.int64), minlength=n_vocab + 1)
    return counts


class Reader:
    """Read a stream from its beginning to its end: no more than a block, or what is asked for, is in memory."""

    def __init__(self, stream: TokenStream) -> None:
        self.stream, self._at, self._block = stream, 0, stream.read(slice(0))

    def read(self, start: int, stop: int) -> Tokens:
        """Return the ids from `start` to `stop`."""
        if not self._at <= start <= stop <= self._at + len(self._block):
            self._at, self._block = start, self.stream.read(slice(start, max(stop, start + BLOCK)))
        return self._block[start - self._at : stop - self._at]

    def pieces(self, start: int, stop: int, beyond: int = 0) -> Iterator[Tokens]:
        """Yield the ids from `start` to `stop` in pieces of at most a block, each with so many ids of the next one."""
        for at in range(start, stop - beyond, BLOCK):
            yield self.read(at, min(stop, at + BLOCK + beyond))


def spans(reader: Reader, eot: int, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield where each document begins and ends, without the separator and the `end` that may stand behind it."""
    stream, last = reader.stream, 0
    for block in itertools.chain(stream.start_blocks(eot), [np.array([len(stream)])]):
        for start, stop in itertools.pairwise([last, *block.tolist()]):
            last = stop
            if start < stop:
                start += int(reader.read(start, start + 1)[0] == eot)
            if start < stop and end is not None:
                stop -= int(reader.read(stop - 1, stop)[0] == end)
            if start < stop:
                yield start, stop


def documents(stream: TokenStream, eot: int, end: int | None = None) -> Iterator[Tokens]:
    """Yield the ids of each document, without the separator and the `end` that the tokenizer may put behind it."""
    reader = Reader(stream)
    return (reader.read(start, stop) for start, stop in spans(reader, eot, end))


def copies(streams: Iterable[TokenStream], eot: int, end: int | None = None) -> tuple[int, int]:
    """Count the documents that are equal to an earlier one, and their tokens; takes 16 bytes of disk a document."""
    streams, found, tokens = list(streams), 0, 0
    number = sum(len(block) for stream in streams for block in stream.start_blocks(eot))
    hashed = (each for stream in streams for each in _digests(stream, eot, end))
    with scratch() as folder:
        every = Partitions(Path(folder) / "documents", _DOCUMENT, number)
        while len(some := np.fromiter(itertools.islice(hashed, AT_ONCE), _DOCUMENT)):
            every.add(some["key"], some["tokens"])
        for part in range(every.count):
            records = every.part(part)
            _, first = np.unique(records["key"], return_index=True)
            found += len(records) - len(first)
            tokens += int(records["tokens"].sum() - records["tokens"][first].sum())
    return found, tokens


def _digests(stream: TokenStream, eot: int, end: int | None) -> Iterator[tuple[int, int]]:
    """Yield a hash of each document, and its tokens."""
    reader = Reader(stream)
    for start, stop in spans(reader, eot, end):
        digest = hashlib.blake2b(digest_size=8)
        for ids in reader.pieces(start, stop):
            digest.update(ids.astype(np.uint32).tobytes())
        yield int.from_bytes(digest.digest(), "little"), stop - start


@dataclass(frozen=True)
class Overlap:
    """The number of distinct n-grams of held-out tokens and of held-out documents, and those found in training."""

    n: int
    ngrams: int
    ngrams_seen: int
    documents: int
    documents_seen: int  # documents with at least one such n-gram


def overlap(train: Iterable[TokenStream], val: TokenStream, eot: int, n: int) -> Overlap:
    """Look for the n-grams of held-out documents in training.

    Takes 16 bytes of disk per held-out token, and 8 per training token whose n-gram may be held out, too.
    """
    with scratch() as name:
        folder = Path(name)
        held_out, maybe = Partitions(folder / "val", _HELD_OUT, len(val)), Partitions(folder / "train", _KEY, len(val))
        coarse, reader, number = np.zeros(1 << BITS, bool), Reader(val), 0
        for number, (start, stop) in enumerate(spans(reader, eot), 1):
            for ids in reader.pieces(start, stop, n - 1):
                grams = ngrams(ids, eot, n)
                coarse[grams >> np.uint64(64 - BITS)] = True
                held_out.add(grams, number - 1)
        for stream in train:
            for ids in Reader(stream).pieces(0, len(stream), n - 1):
                grams = ngrams(ids, eot, n)
                maybe.add(grams[coarse[grams >> np.uint64(64 - BITS)]])
        different = seen = 0
        documents_seen = Partitions(folder / "documents", _KEY, number, max(1, number))
        for part in range(held_out.count):
            records = held_out.part(part)
            known, group = np.unique(records["key"], return_inverse=True)
            found = np.zeros(len(known), bool)
            for block in maybe.blocks(part) if len(known) else ():
                at = np.minimum(np.searchsorted(known, block["key"]), len(known) - 1)
                found[at[known[at] == block["key"]]] = True
            different, seen = different + len(known), seen + int(found.sum())
            documents_seen.add(np.unique(records["document"][found[group]]))
        hit = sum(len(np.unique(documents_seen.part(part))) for part in range(documents_seen.count))
    return Overlap(n, different, seen, number, hit)


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
        starts, sizes, last = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
        for block in itertools.chain(stream.start_blocks(tokenizer.eot), [np.array([len(stream)])]):
            bounds = np.concatenate([last, block])
            starts, sizes = np.append(starts, bounds[:-1]), np.append(sizes, np.diff(bounds))
            kept = np.argsort(-sizes, kind="stable")[:how_many]  # the earlier of two that are equally long
            starts, sizes, last = starts[kept], sizes[kept], bounds[-1:]
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            begin = stream.read(slice(start, start + min(40, size)))
            text = tokenizer.decode([int(t) for t in begin if t != tokenizer.eot and t < tokenizer.n_vocab])
            found.append((size, " ".join(text.split())[:60]))
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
