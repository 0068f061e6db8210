"""Score the model of a run on all of its held-out text, by the run's task."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from gptlab.data.batches.batch import IGNORE, tensors
from gptlab.data.batches.sampler import EvalBatches
from gptlab.data.batches.windows import Windows, protocol
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import prepare, unspelled
from gptlab.data.tokens.shards import Tokens, TokenStream, held_out_stream
from gptlab.errors import require
from gptlab.evaluation.model import load_with_task
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Figures, HeldOut, Reading, Sums, Task
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tokenizers import Tokenizer, fingerprint
from gptlab.tokenizers.saved import Saved

Nats = np.ndarray[Any, np.dtype[np.float64]]


def evaluate(
    run: RunDir, data: DataConfig | None = None, context: int | None = None, batch_size: int = 16
) -> dict[str, Any]:
    """Score the model of a run on held-out text: the run's own, or that of a data option, in windows of `context`.

    Returns the scores of the run's task (for causal_lm the loss in nats per token, perplexity and bits per byte), the
    numbers of tokens (targets) and bytes that they cover, and their conditions: how the text was read, and hashes of
    tokenizer and text. If the tokens do not spell all of the text, bits per byte is None, and `unspelled` counts them.
    """
    task, gpt, tokenizer = load_with_task(run)
    if data is None:
        why, todo = "the run has no held-out text of its own", "say which: data=text data.files=[...]"
        require(run.has_held_out(), "data", "null", why, todo)
        tokens, size = held_out_stream(run.path / "held_out")
        manifest = run.held_out_manifest()
        data_hash, part = manifest["sha256"], manifest.get("val", {})
        lost = unspelled(part, [tokens], tokenizer)
    else:
        corpus = prepare(data, Saved(str(run.path / "tokenizer")), parts=["val"])
        tokens, size = corpus.val, corpus.val_bytes
        data_hash, lost = corpus.manifest["sha256"], corpus.unspelled["val"]
    by_documents, alone = run.windows()
    block_size = context or gpt.config.block_size
    check_length(gpt, tokens, block_size)
    examples = task.held_out(tokens, block_size, tokenizer.eot, by_documents)
    sums = measure(gpt, task, examples, batch_size, Reading(tokenizer.eot if alone else None))
    scores: dict[str, Any] = task.scores(sums, None if lost else size)
    if lost and "val/bits_per_byte" in task.metrics:
        scores["bits_per_byte"] = None
    return {
        **scores,
        **({"unspelled": lost} if lost else {}),
        "tokens": int(sums["targets"].sum()),
        "bytes": size,
        "protocol": reading_protocol(tokenizer, block_size, by_documents, alone),
        "tokenizer_hash": fingerprint(run.path / "tokenizer"),
        "data_hash": data_hash,
    }


def reading_protocol(tokenizer: Tokenizer, block_size: int, by_documents: bool, alone: bool) -> dict[str, Any]:
    """Return in words how a text is read: also what stands before a document, where that is not what ends it."""
    found = protocol(block_size, by_documents, alone)
    return found if tokenizer.end_of_document is None else {**found, "begins_with": tokenizer.spell(tokenizer.eot)}


def check_length(gpt: Any, tokens: Tokens | TokenStream, block_size: int) -> None:
    """Refuse windows that are longer than the model or the text allows."""
    context = gpt.config.block_size
    require(
        block_size <= context or getattr(gpt.config, "reads_beyond", False),
        "block_size",
        block_size,
        f"is more than the {context} tokens that the model can read at once",
        f"give at most {context}",
    )
    require(
        len(tokens) > block_size,
        "data.val_fraction",
        "held-out",
        f"its {len(tokens)} tokens are less than one window of block_size={block_size}",
        "hold out more, or give more text",
    )


def measure(gpt: nn.Module, task: Task, examples: HeldOut, batch_size: int, reading: Reading | None = None) -> Sums:
    """Return a task's sums over all examples, each counted once, in float64."""
    total: Sums = {}
    for batch, figures in _figures(gpt, task, examples, batch_size, reading or Reading()):
        for name, sums in task.measure(figures, batch).items():
            total[name] = total.get(name, 0) + sums.double()
    return total


def token_nats(gpt: nn.Module, windows: Windows, batch_size: int, separator: int | None) -> Iterator[Nats]:
    """Yield the cost of every target in nats, in the order of the text, (N,) a batch.

    With a `separator` no position attends to anything before the last one.
    """
    for batch, figures in _figures(gpt, CausalLM(), windows, batch_size, Reading(separator)):
        yield figures["loss"][batch.y != IGNORE].numpy()


@torch.no_grad()
def _figures(
    gpt: nn.Module, task: Task, examples: HeldOut, batch_size: int, reading: Reading
) -> Iterator[tuple[Any, Figures]]:
    """Yield each batch with the figures of its targets in float64; both are on the CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpt = gpt.to(device)
    for indices in EvalBatches(len(examples), min(batch_size, len(examples))):
        batch = examples.__getitems__(indices)
        figures = task.losses(gpt, *(each.to(device) for each in tensors(batch)), reading=reading)
        yield batch, {name: values.cpu().double() for name, values in figures.items()}
