"""Leave documents out of training tokens that are held out as well."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gptlab.data.tokens.shards import Shard, TokenStream
from gptlab.errors import require

MOST = 10_000  # documents that are left out: each leaves two pieces, which are opened by themselves

Ints = np.ndarray[Any, np.dtype[Any]]


def without_copies(train: Sequence[Shard], val: Sequence[Shard], eot: int) -> tuple[list[Shard], int]:
    """Return training shards without the documents that the held-out ones have too, and how many those are.

    A document is what stands between separators. Takes some 50 bytes of memory per held-out document, and 40 per
    document of one shard. Raises UserError where they are more than MOST, or where nothing is left.
    """
    held_keys, held = [np.empty(0, np.uint64)], set[bytes]()
    for shard in val:
        stream, starts, stops = _documents(shard, eot)
        held_keys.append(_keys(stream, starts, stops))
        held.update(_digests(stream, starts, stops))
    keys = np.unique(np.concatenate(held_keys))
    kept: list[Shard] = []
    left_out = 0
    for shard in train:
        stream, starts, stops = _documents(shard, eot)
        alike = np.isin(_keys(stream, starts, stops), keys)
        starts, stops = starts[alike], stops[alike]
        same = np.array([digest in held for digest in _digests(stream, starts, stops)], bool)
        left_out += int(same.sum())
        why, todo = f"more than {MOST:,} of its documents are in data.val too", "make it again without them"
        require(left_out <= MOST, "data.train", shard.path, why, todo)
        kept += _without(shard, stream, starts[same], stops[same], eot)
    left = sum(shard.tokens for shard in kept)
    require(left > 0 or not left_out, "data.train", train[0].path, "all of it is in data.val too", "name others")
    return kept, left_out


def _documents(shard: Shard, eot: int) -> tuple[TokenStream, Ints, Ints]:
    """Return the ids of a shard, and where its documents that are not empty begin and end, without separators."""
    stream = TokenStream([shard])
    starts = stream.document_starts(eot)
    stops = np.append(starts[1:], len(stream))
    ids = shard.map()
    if len(ids):
        starts = starts + (ids[starts] == eot)
    return stream, starts[starts < stops], stops[starts < stops]


def _keys(stream: TokenStream, starts: Ints, stops: Ints) -> Ints:
    """Return a number for each document, by its length and three of its ids: most of those that differ have another."""
    ids = stream.shards[0].map()
    found = (stops - starts).astype(np.uint64)
    for places in (starts, (starts + stops) // 2, stops - 1):
        found = found * np.uint64(0x9E3779B97F4A7C15) + ids[places].astype(np.uint64)
    return found


def _digests(stream: TokenStream, starts: Ints, stops: Ints) -> Iterator[bytes]:
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        yield hashlib.blake2b(stream[start:stop].astype("<u4").tobytes(), digest_size=16).digest()


def _without(shard: Shard, stream: TokenStream, starts: Ints, stops: Ints, eot: int) -> Iterator[Shard]:
    """Yield what is left of a shard without some documents and the separators before them."""
    width, at = np.dtype(shard.dtype).itemsize, 0
    for start, stop in [*zip(starts.tolist(), stops.tolist(), strict=True), (shard.tokens, shard.tokens)]:
        end = start - int(0 < start < shard.tokens and int(stream[start - 1 : start][0]) == eot)
        if end > at:
            offset, mask_offset = shard.offset + at * width, shard.mask_offset + at
            yield dataclasses.replace(shard, tokens=end - at, offset=offset, mask_offset=mask_offset)
        at = stop
