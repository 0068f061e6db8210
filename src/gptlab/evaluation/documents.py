"""Score the documents that several runs hold out, each document by itself and in nats, for any tokenizers."""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.data.batches.windows import held_out
from gptlab.data.config import TEXT
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.shards import Shard, TokenStream, dtype_for, held_out_stream, mask_path
from gptlab.errors import UserError, require
from gptlab.evaluation.held_out import reading_protocol, require_context, require_length
from gptlab.evaluation.model import load_language_model
from gptlab.evaluation.perplexity import token_nats
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Ids, Tokenizer, load_tokenizer
from gptlab.tokenizers.saved import Saved

Array = np.ndarray[Any, np.dtype[np.float64]]
FEWEST = 20  # documents; below that, stretches of text are the units
STRETCHES = 200  # about so many of them
SHORTEST = 256  # bytes of a stretch


@dataclass(frozen=True)
class Units:
    """The units that the bootstrap draws: documents, or stretches of `stretch` bytes of them; (U,) sizes in bytes."""

    sizes: Array
    first: list[int]  # of each document
    stretch: int | None

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Units":
        """Return the units of documents with these lengths in bytes; a document's last stretch takes the remainder."""
        stretch = None if len(lengths) >= FEWEST else max(SHORTEST, sum(lengths) // STRETCHES)
        sizes: list[int] = []
        first = []
        for length in lengths:
            first.append(len(sizes))
            parts = max(1, length // stretch) if stretch else 1
            sizes += [*([stretch or 0] * (parts - 1)), length - (parts - 1) * (stretch or 0)]
        return cls(np.array(sizes, np.float64), first, stretch if len(sizes) > len(lengths) else None)

    def __str__(self) -> str:
        n = len(self.sizes)
        return f"{n:,} stretches of {self.stretch:,} bytes" if self.stretch else f"{n:,} documents"


@dataclass(frozen=True)
class Costs:
    """The nats and predicted tokens of each unit, (U,), under one run, and how the text was read."""

    nats: Array
    tokens: Array
    protocol: dict[str, Any]


def common_documents(runs: Sequence[RunDir], data: Any) -> tuple[list[bytes], list[list[Ids]], int]:
    """Return the documents that all runs hold out, or those of a data option.

    They are returned as their bytes, with each run's ids of each, and the number of documents left out because a run
    does not hold them out or its tokenizer cannot spell them. Raises UserError if there are none.
    """
    tokenizers = [load_tokenizer(run.path / "tokenizer") for run in runs]
    own = [_own(run, tokenizer, data) for run, tokenizer in zip(runs, tokenizers, strict=True)]
    first = next((documents for documents in own if documents is not None), None)
    if first is None:
        why, todo = "none of the runs has held-out text of its own", "say which: data=text data.files=[...]"
        raise UserError("data", "null", why, todo)
    spelled = [None if documents is None else dict(documents) for documents in own]
    texts: list[bytes] = []
    ids: list[list[Ids]] = [[] for _ in runs]
    for text, _ in first:
        found = [
            _encoded(text, tokenizer) if known is None else known.get(text)
            for known, tokenizer in zip(spelled, tokenizers, strict=True)
        ]
        whole = [each for each in found if each is not None]
        if len(whole) == len(runs):
            texts.append(text)
            for each, one in zip(ids, whole, strict=True):
                each.append(one)
    todo = "say which text to score: data=text data.files=[...] data.val_fraction=1"
    require(bool(texts), "data", "null", "no document is held out by all of the runs", todo)
    return texts, ids, len(first) - len(texts)


def cost(run: RunDir, ids: Sequence[Ids], units: Units, block_size: int | None, batch_size: int) -> Costs:
    """Score documents one after another, in the windows of `evaluate`.

    A token belongs to the document in which it is predicted, so that the separator behind a document is its end.
    """
    gpt, tokenizer = load_language_model(run)
    by_documents, alone = run.windows()
    T = block_size or gpt.config.block_size
    dtype = dtype_for(tokenizer.n_vocab)
    end = tokenizer.end_of_document
    before = [tokenizer.eot] if end is None else [end, tokenizer.eot]  # each document but the first
    joined = np.concatenate([np.concatenate([before, each]) for each in ids])[len(before) - 1 :].astype(dtype)
    counts = np.ones(len(joined), np.uint8) if end is None else (joined != tokenizer.eot).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.bin"
        path.write_bytes(joined.tobytes())
        mask = None if end is None else mask_path(path)
        if mask is not None:
            mask.write_bytes(counts.tobytes())
        stream = TokenStream([Shard(path, dtype, len(joined), mask=mask)])
        require_context(gpt.config, T)
        require_length(stream, T)
        windows = held_out(stream, T, tokenizer.eot, by_documents)
        separator = tokenizer.eot if alone else None
        each = np.concatenate([*token_nats(gpt, windows, batch_size, separator)])  # of the ids 1 .. N-1 that count
    unit = _unit_of_inputs(ids, units, tokenizer)[:-1]  # the last input predicts nothing
    n = len(units.sizes)
    tokens = np.bincount(unit, minlength=n).astype(np.float64)
    return Costs(
        np.bincount(unit, each, n).astype(np.float64), tokens, reading_protocol(tokenizer, T, by_documents, alone)
    )


def _own(run: RunDir, tokenizer: Tokenizer, data: Any) -> list[tuple[bytes, Ids | None]] | None:
    """Return the documents to score, as this run's tokenizer has them; None if the run has none of its own.

    A document with unknown tokens has no ids, since their text is lost.
    """
    if data is not None:
        stream = prepare(data, Saved(str(run.path / "tokenizer")), parts=["val"]).val
    elif run.holds_out(TEXT):
        stream = held_out_stream(run.path / "held_out")[0]
    else:
        return None
    bounds = [*stream.document_starts(tokenizer.eot).tolist(), len(stream)]
    documents = []
    for start, stop in itertools.pairwise(bounds):
        ids = stream[start:stop].astype(np.int64)
        ids = ids[1:] if len(ids) and ids[0] == tokenizer.eot else ids
        ids = ids[:-1] if len(ids) and ids[-1] == tokenizer.end_of_document else ids
        unknown = tokenizer.unknown is not None and tokenizer.unknown in ids
        documents.append((tokenizer.decode_bytes(ids.tolist()), None if unknown else ids))
    return [(text, ids) for text, ids in documents if text]


def _encoded(text: bytes, tokenizer: Tokenizer) -> Ids | None:
    """Return the ids of a text; None if the tokenizer cannot spell it."""
    ids = np.array(tokenizer.encode(text.decode("utf-8", "replace")), np.int64)
    return ids if tokenizer.decode_bytes(ids.tolist()) == text else None


def _unit_of_inputs(ids: Sequence[Ids], units: Units, tokenizer: Tokenizer) -> Ids:
    """Return the unit of the target of each input of the joined documents; a target lies where it begins."""
    found = []
    for number, (first, each) in enumerate(zip(units.first, ids, strict=True)):
        if units.stretch is None:
            found.append(np.full(len(each) + 1, first))
            continue
        last = (units.first[number + 1] if number + 1 < len(units.first) else len(units.sizes)) - 1
        lengths = [len(tokenizer.decode_part([token], begins=n == 0)) for n, token in enumerate(each.tolist())]
        begins = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])  # of each target, the end among them
        found.append(np.minimum(first + begins // units.stretch, last))
    return np.concatenate(found).astype(np.int64)
