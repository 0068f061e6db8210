"""Documents -> token shards on disk with a manifest, once, cached by content.

A shard is a plain array of ids (`np.memmap(path, dtype)`): every document is preceded by the separator, so that the
first token of a text is predicted too. A folder holds `train.bin`, `val.bin`, `tokenizer/` and `manifest.json`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from gptlab.atomic import new_folder
from gptlab.data.sources import TextData, cache_dir
from gptlab.data.splits import split
from gptlab.errors import require
from gptlab.tokenizers import Tokenizer, TokenizerConfig, load_tokenizer

Tokens = np.ndarray[Any, np.dtype[Any]]
LAYOUT = 1  # raise when the meaning of a cached folder changes


@dataclass(frozen=True)
class Corpus:
    """A folder of shards: ids for training and held out, the tokenizer that made them, and what went in."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer

    def tokens(self, part: str) -> Tokens:
        """The ids (N,) of `train` or `val`, mapped from disk."""
        return read_shard(self.folder / f"{part}.bin", self.manifest["dtype"])


def read_shard(path: Path, dtype: str) -> Tokens:
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


def prepare(data: TextData, config: TokenizerConfig) -> Corpus:
    """The corpus of a data option: read, split, tokenizer built on the training text, tokenized; or as cached."""
    documents = _documents(data)
    content = _hash(document.encode() for document in documents)
    recipe = repr((LAYOUT, content, data.val_fraction, type(config).__name__, asdict(config)))
    folder = cache_dir() / "shards" / hashlib.sha256(recipe.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # processes of one run all come here; the first one works
        if not folder.exists():
            _write(folder, documents, content, data.val_fraction, config)
    manifest = json.loads((folder / "manifest.json").read_text())
    return Corpus(folder, manifest, load_tokenizer(folder / "tokenizer"))


def tokenize_held_out(data: TextData, tokenizer: Tokenizer) -> tuple[Tokens, int]:
    """The held-out ids (N,) of any data under a tokenizer that exists already, and the bytes they spell."""
    documents = _documents(data)
    _, val = split(documents, data.val_fraction)
    return np.concatenate(list(_encode(val, tokenizer))), _bytes(val)


def _documents(data: TextData) -> list[str]:
    documents = [document for document in data.documents() if document]
    require(bool(documents), "data", type(data).__name__.lower(), "has no text", "give files that are not empty")
    return documents


def _encode(documents: list[str], tokenizer: Tokenizer) -> Iterator[Tokens]:
    """Each document's ids behind a separator."""
    for start in range(0, len(documents), 256):  # in batches, which tiktoken spreads over the cores
        for ids in tokenizer.encode_batch(documents[start : start + 256]):
            yield np.array([tokenizer.eot, *ids], dtype=dtype_for(tokenizer))


def _bytes(documents: list[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def _write_shard(documents: list[str], tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """Write one shard and say what is in it."""
    digest, tokens = hashlib.sha256(), 0
    with path.open("wb") as file:
        for array in _encode(documents, tokenizer):
            file.write(array.tobytes())
            digest.update(array.tobytes())
            tokens += len(array)
    return {
        "documents": len(documents),
        "bytes": _bytes(documents),
        "tokens": tokens,
        "sha256": digest.hexdigest(),
    }


def dtype_for(tokenizer: Tokenizer) -> str:
    return "uint16" if tokenizer.n_vocab <= 2**16 else "uint32"


def _write(folder: Path, documents: list[str], content: str, val_fraction: float, config: TokenizerConfig) -> None:
    """Everything in a folder beside, then one rename: a killed run leaves no half corpus."""
    train, val = split(documents, val_fraction)
    tokenizer = config.build(train)
    with new_folder(folder) as work:
        (work / "tokenizer").mkdir()
        tokenizer.save(work / "tokenizer")
        manifest = {
            "sha256": content,
            "dtype": dtype_for(tokenizer),
            "train": _write_shard(train, tokenizer, work / "train.bin"),
            "val": _write_shard(val, tokenizer, work / "val.bin"),
        }
        (work / "manifest.json").write_text(json.dumps(manifest, indent=2))


def _hash(parts: Iterable[bytes]) -> str:
    """SHA-256 of a list of byte strings, their borders included."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()
