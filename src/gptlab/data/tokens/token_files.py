"""Read tokens that others wrote, as nanoGPT and llm.c do, and spell them as text."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptlab.data.text.sources import matching
from gptlab.data.tokens.shards import MASK, Shard, TokenStream, dtype_for, mask_path, require_size
from gptlab.errors import require
from gptlab.tokenizers import Tokenizer

HEADER = 1024  # bytes before the ids of llm.c
LLM_C = {20240520: "uint16", 20240801: "uint32"}  # the first number of the header: version and dtype


def foreign_shards(patterns: list[str], key: str, tokenizer: Tokenizer) -> list[Shard]:
    """Return the .bin files that paths and globs name, each with its loss mask if one lies beside it.

    Raises UserError if a file is missing or incomplete.
    """
    paths = [path for path in matching(patterns, key) if not path.name.endswith(MASK)]
    require(bool(paths), key, patterns, "names loss masks only", "name the ids; a mask is found beside them")
    shards = [_foreign_shard(path, tokenizer.n_vocab) for path in paths]
    for number, path in enumerate(map(mask_path, paths)):
        if path.is_file():
            require_size(path, shards[number].tokens)
            shards[number] = dataclasses.replace(shards[number], mask=path)
    return shards


def _foreign_shard(path: Path, n_vocab: int) -> Shard:
    """Return the ids of a .bin file as others write it.

    Raises UserError if its size is not a whole number of ids.
    """
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 256) if size >= HEADER else np.zeros(256, "<i4")
    if int(header[0]) in LLM_C:
        dtype, tokens = LLM_C[int(header[0])], int(header[2])
        require_size(path, HEADER + tokens * np.dtype(dtype).itemsize)
        return Shard(path, dtype, tokens, HEADER)
    dtype = dtype_for(n_vocab)
    width = np.dtype(dtype).itemsize
    why = f"its {size:,} bytes are no whole number of {dtype} ids"
    require(size % width == 0, "data", path, why, "see that it is whole, and made with this tokenizer")
    return Shard(path, dtype, size // width)


def spelled(stream: TokenStream, tokenizer: Tokenizer, targets_only: bool = False) -> Iterator[bytes]:
    """Yield the bytes of the text, in pieces; separators and ids outside the tokenizer spell nothing."""
    every = itertools.repeat(np.True_) if not targets_only else (block != 0 for block in stream.mask_blocks())
    begins = True
    for block, counts in zip(stream.blocks(), every, strict=False):
        edges = np.isin(block, [tokenizer.eot, *([] if tokenizer.end_of_document is None else tokenizer.ends)])
        keep = ~edges & (block < tokenizer.n_vocab) & counts
        if not tokenizer.first_differs:
            yield tokenizer.decode_bytes(block[keep].tolist())
            continue
        bounds = [0, *np.flatnonzero(edges).tolist(), len(block)]
        for start, stop in itertools.pairwise(bounds):
            part = slice(start + bool(edges[start : start + 1].any()), stop)
            begins = begins or part.start > start
            ids = block[part]
            if len(ids):
                yield tokenizer.decode_part(ids[keep[part]].tolist(), begins and bool(keep[part][0]))
                begins = False


def cut(shards: list[Shard], val_fraction: float) -> tuple[list[Shard], list[Shard]]:
    """Return training and held-out shards: the end of all tokens is held out."""
    left = int((1 - val_fraction) * sum(shard.tokens for shard in shards))
    train, val = [], []
    for shard in shards:
        n = min(left, shard.tokens)
        width = np.dtype(shard.dtype).itemsize
        train.append(dataclasses.replace(shard, tokens=n))
        rest, offset = shard.tokens - n, shard.offset + n * width
        val.append(dataclasses.replace(shard, tokens=rest, offset=offset, mask_offset=shard.mask_offset + n))
        left -= n
    return train, val
