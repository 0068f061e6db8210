"""The verb `evaluate`: how well the model of a run predicts held-out text, all of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from gptlab.commands.configs import EvaluateConfig
from gptlab.data.batches.windows import EvalBatches, Windows, held_out, protocol
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.shards import Tokens, TokenStream
from gptlab.errors import require
from gptlab.evaluation import surprise
from gptlab.metrics import IGNORE, Score, nats
from gptlab.model.gpt import GPT, read_by_document
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint
from gptlab.tokenizers.saved import Saved

Nats = np.ndarray[Any, np.dtype[np.float64]]


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Print and return loss (nats per token), perplexity, bits per byte, and the tokens and bytes they are over; and
    what they hold for: how the text was read, and hashes of tokenizer and text."""
    run = RunDir.find(config.run)
    gpt, tokenizer = run.load()
    if config.text is not None:
        return surprise.explain(
            run, gpt, tokenizer, config.text, config.block_size or gpt.config.block_size, config.batch_size
        )
    if config.data is None:
        why, todo = "the run has no held-out text of its own", "say which: data=text data.files=[...]"
        require(run.has_held_out(), "data", "null", why, todo)
        tokens, size = run.held_out()
        data_hash = run.held_out_manifest()["sha256"]
    else:
        corpus = prepare(config.data, Saved(str(run.path / "tokenizer")), parts=["val"])
        tokens, size = corpus.val, corpus.manifest["val"]["bytes"]
        data_hash = corpus.manifest["sha256"]
    by_documents, alone = run.windows()
    block_size = config.block_size or gpt.config.block_size
    check_length(gpt, tokens, block_size)
    windows = held_out(tokens, block_size, tokenizer.eot, by_documents)
    score = score_windows(gpt, windows, size, config.batch_size, tokenizer.eot if alone else None)
    result = {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "protocol": protocol(block_size, by_documents, alone),
        "tokenizer_hash": fingerprint(run.path / "tokenizer"),
        "data_hash": data_hash,
    }
    table = Table("nats/token", "perplexity", "bits/byte", "tokens", "bytes")
    table.add_row(
        f"{score.loss:.4f}",
        f"{score.perplexity:,.2f}",
        f"{score.bits_per_byte:.4f}",
        f"{score.tokens:,}",
        f"{score.bytes:,}",
    )
    Console().print(table)
    return result


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
    """Every target of the windows once; `size` is the bytes they spell.

    With a `separator` no position attends beyond the last one before it.
    """
    total, count = 0.0, 0
    for each in token_nats(gpt, windows, batch_size, separator):
        total += float(each.sum())
        count += len(each)
    return Score(total, count, size)


@torch.no_grad()
def token_nats(gpt: GPT, windows: Windows, batch_size: int, separator: int | None) -> Iterator[Nats]:
    """The cost of every target in the order of the text, (N,) a batch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpt = gpt.to(device)
    for indices in EvalBatches(len(windows), min(batch_size, len(windows))):
        x, y = (t.to(device) for t in windows.__getitems__(indices))
        costs = nats(read_by_document(gpt, x, separator), y, reduction="none")  # (B*T,)
        yield costs[y.flatten() != IGNORE].double().cpu().numpy()
