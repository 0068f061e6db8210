"""Score the model of a run on held-out text, all of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.sampler import EvalBatches
from gptlab.data.batches.windows import Windows, held_out, protocol
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.shards import Tokens, TokenStream, held_out_stream
from gptlab.errors import require
from gptlab.metrics import Score
from gptlab.model.gpt import GPT, read_by_document
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.cross_entropy import cross_entropy
from gptlab.tokenizers import fingerprint
from gptlab.tokenizers.saved import Saved

Nats = np.ndarray[Any, np.dtype[np.float64]]


def evaluate(
    run: RunDir, data: DataConfig | None = None, context: int | None = None, batch_size: int = 16
) -> dict[str, Any]:
    """Score the model of a run on held-out text: the run's own, or that of a data option, in windows of `context`.

    Returns loss (nats per token), perplexity, bits per byte, and the tokens and bytes they are over; and what they hold
    for: how the text was read, and hashes of tokenizer and text.
    """
    gpt, tokenizer = run.load()
    if data is None:
        why, todo = "the run has no held-out text of its own", "say which: data=text data.files=[...]"
        require(run.has_held_out(), "data", "null", why, todo)
        tokens, size = held_out_stream(run.path / "held_out")
        data_hash = run.held_out_manifest()["sha256"]
    else:
        corpus = prepare(data, Saved(str(run.path / "tokenizer")), parts=["val"])
        tokens, size = corpus.val, corpus.val_bytes
        data_hash = corpus.manifest["sha256"]
    by_documents, alone = run.windows()
    block_size = context or gpt.config.block_size
    check_length(gpt, tokens, block_size)
    windows = held_out(tokens, block_size, tokenizer.eot, by_documents)
    score = score_windows(gpt, windows, size, batch_size, tokenizer.eot if alone else None)
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "protocol": protocol(block_size, by_documents, alone),
        "tokenizer_hash": fingerprint(run.path / "tokenizer"),
        "data_hash": data_hash,
    }


def check_length(gpt: GPT, tokens: Tokens | TokenStream, block_size: int) -> None:
    """Refuse windows that the model or the text is too short for."""
    context = gpt.config.block_size
    require(
        block_size <= context or gpt.config.positions != "learned",
        "block_size",
        block_size,
        f"is more than the {context} positions that the model has learned",
        f"give at most {context}",
    )
    require(
        len(tokens) > block_size,
        "data.val_fraction",
        "held-out",
        f"its {len(tokens)} tokens are less than one window of block_size={block_size}",
        "hold out more, or give more text",
    )


def score_windows(gpt: GPT, windows: Windows, size: int, batch_size: int, separator: int | None = None) -> Score:
    """Score every target of the windows once; `size` is the bytes they spell.

    With a `separator` no position attends beyond the last one before it.
    """
    total, count = 0.0, 0
    for each in token_nats(gpt, windows, batch_size, separator):
        total += float(each.sum())
        count += len(each)
    return Score(total, count, size)


@torch.no_grad()
def token_nats(gpt: GPT, windows: Windows, batch_size: int, separator: int | None) -> Iterator[Nats]:
    """Yield the cost of every target in nats, in the order of the text, (N,) a batch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpt = gpt.to(device)
    for indices in EvalBatches(len(windows), min(batch_size, len(windows))):
        batch = windows.__getitems__(indices)
        x, y = batch.x.to(device), batch.y.to(device)
        costs = cross_entropy(read_by_document(gpt, x, separator), y, reduction="none")  # (B*T,)
        yield costs[y.flatten() != IGNORE].double().cpu().numpy()
