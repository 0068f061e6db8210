"""Read tokens that others wrote: nanoGPT's and llm.c's files, NumPy's, Megatron's, and tables of ids."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.text.sources import TokenFiles, matching
from gptlab.data.tokens import megatron
from gptlab.data.tokens.shards import MASK, Shard, TokenStream, dtype_for, mask_path, require_size
from gptlab.data.tokens.token_tables import Row, converted, table_shard
from gptlab.errors import UserError, reason, require
from gptlab.tokenizers import Tokenizer

HEADER = 1024  # bytes before the ids of llm.c
LLM_C = {20240520: "uint16", 20240801: "uint32"}  # the first number of the header: version and dtype
TABLES = (".arrow", ".feather", ".parquet")
WIDER = {"uint16": "uint32", "uint32": "uint64"}
SURE = 16  # ids that are enough to tell by zeros how wide they are
BLOCK = 1 << 22  # ids read at once


def foreign_shards(data: TokenFiles, key: str, patterns: list[str], tokenizer: Tokenizer) -> list[Shard]:
    """Return the files that paths and globs name, each as its header or index says, or by data.dtype.

    A .bin or .npy file has a loss mask if one lies beside it. Raises UserError where a file is missing, not whole, or
    not what it is taken for.
    """
    paths = [path for path in matching([_binary(each) for each in patterns], key) if not path.name.endswith(MASK)]
    bins = {path for path in paths if path.suffix == ".bin"}
    beside = {path.with_suffix(ending) for path in bins for ending in (".idx", ".starts.npy")}
    paths = [path for path in paths if path not in beside]
    require(bool(paths), key, patterns, "names loss masks only", "name the ids; a mask is found beside them")
    return [_foreign_shard(path, data, tokenizer) for path in paths]


def _binary(pattern: str) -> str:
    """Return the .bin file of an index or of a prefix, by which Megatron names the two."""
    path = Path(pattern)
    if path.suffix == ".idx":
        return str(path.with_suffix(".bin"))
    both = all(Path(f"{pattern}{ending}").is_file() for ending in (".bin", ".idx"))
    return f"{pattern}.bin" if both and not path.exists() else pattern


def _foreign_shard(path: Path, data: TokenFiles, tokenizer: Tokenizer) -> Shard:
    if path.suffix.lower() in TABLES:
        require(data.dtype is None, "data.dtype", data.dtype, f"{path} says itself what it holds", "leave it out")
        return table_shard(path, data.column, data.joined, tokenizer.eot)
    declared = _declared(path, tokenizer.eot)
    if declared is None:
        shard = _raw(path, data.dtype, tokenizer.n_vocab)
    else:
        shard = declared
        same = data.dtype is None or unsigned(np.dtype(data.dtype)) == unsigned(np.dtype(shard.dtype))
        why = f"{path} says that it holds {np.dtype(shard.dtype).name}"
        require(same, "data.dtype", data.dtype, why, "leave it out")
    mask = mask_path(path)
    if not mask.is_file() or shard.mask is not None:
        return shard
    require_size(mask, shard.tokens)
    return dataclasses.replace(shard, mask=mask)


def _declared(path: Path, eot: int) -> Shard | None:
    """Return the ids of a file that says what it holds: .npy, one with an index, or llm.c's; None for others."""
    if path.suffix == ".npy":
        return _numpy(path)
    if megatron.is_index(path):
        return _megatron(path, eot)
    header = np.fromfile(path, "<i4", 256) if path.stat().st_size >= HEADER else np.zeros(256, "<i4")
    if int(header[0]) not in LLM_C:
        return None
    dtype, tokens = LLM_C[int(header[0])], int(header[2])
    require_size(path, HEADER + tokens * np.dtype(dtype).itemsize)
    return Shard(path, dtype, tokens, HEADER)


def _numpy(path: Path) -> Shard:
    """Return the ids of a .npy file, by its header."""
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError("data", path, f"cannot be read ({reason(error)})", "give a whole .npy file of ids") from error
    ids = isinstance(array, np.memmap) and array.dtype.kind in "iu" and array.ndim == 1
    what = f"an array of {array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
    require(ids, "data", path, f"holds {what}, not ids in a row", "save a flat array of whole numbers")
    require_size(path, array.offset + array.nbytes)
    return Shard(path, unsigned(array.dtype), len(array), array.offset)


def _megatron(path: Path, eot: int) -> Shard:
    """Return the ids of a file with Megatron's index: as they lie where each document ends with the separator, else
    from a copy in the cache, where each has one before it."""
    index = megatron.read_index(path)
    shard = Shard(path, unsigned(np.dtype(index.dtype)), index.tokens)
    if megatron.ends_with(shard.map(), index, eot):
        return shard
    stats = [each.stat() for each in (path, path.with_suffix(".idx"))]
    key = ("megatron", str(path.absolute()), *((stat.st_size, stat.st_mtime_ns) for stat in stats), eot)
    return converted(path, key, lambda: (Row(ids, None) for ids in megatron.documents(shard.map(), index)), eot)


def _raw(path: Path, dtype: str | None, n_vocab: int) -> Shard:
    """Return the ids of a file that is nothing but ids: of `dtype`, or of the type that the vocabulary needs.

    Raises UserError where its size is not that of whole ids, or where its ids are wider: they have zeros between them.
    """
    size = path.stat().st_size
    taken = dtype or dtype_for(n_vocab)
    width = np.dtype(taken).itemsize
    why = f"its {size:,} bytes are no whole number of {taken} ids"
    require(size % width == 0, "data", path, why, "see that it is whole, and made with this tokenizer, or data.dtype=")
    shard = Shard(path, unsigned(np.dtype(taken)), size // width)
    if dtype is None and (wider := _wider(shard, taken)):
        why = f"read as {taken}, every second id is 0, as if it held {wider}"
        require(False, "data", path, why, f"give data.dtype={wider}, or data.dtype={taken} if it is right")
    return shard


def _wider(shard: Shard, taken: str) -> str | None:
    """Return the type twice (or four times) as wide whose upper halves are all zero; None: the ids are not wider."""
    if taken not in WIDER or shard.tokens % 2 or shard.tokens < SURE:
        return None
    ids = shard.map()
    if any(ids[i + 1 : i + BLOCK : 2].any() for i in range(0, len(ids), BLOCK)):
        return None
    found = WIDER[taken]
    width = np.dtype(found).itemsize
    again = Shard(shard.path, found, shard.tokens * np.dtype(taken).itemsize // width)
    return _wider(again, found) or found


def unsigned(dtype: np.dtype[Any]) -> str:
    """Return a type of whole numbers without a sign: an id below 0 is then far beyond any vocabulary."""
    return np.dtype(dtype.str.replace("i", "u")).str


def spelled(stream: TokenStream, tokenizer: Tokenizer, targets_only: bool = False) -> Iterator[bytes]:
    """Yield the bytes of the text, in pieces; separators and ids outside the tokenizer spell nothing."""
    every = itertools.repeat(np.True_) if not targets_only else (block != 0 for block in stream.mask_blocks())
    silent = [] if tokenizer.eot_is_text else [tokenizer.eot]
    silent += [] if tokenizer.end_of_document is None else tokenizer.ends
    begins = True
    for block, counts in zip(stream.blocks(), every, strict=False):
        edges = np.isin(block, silent)
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
