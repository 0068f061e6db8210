"""Find what a run or a data option holds out: windows of a text, or examples, as the task reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.data.batches import examples
from gptlab.data.batches.sliding import SlidingWindows
from gptlab.data.batches.windows import protocol
from gptlab.data.config import EXAMPLES, BatchConfig, ExampleData, Record
from gptlab.data.tokens.prepare import prepare, unspelled
from gptlab.data.tokens.shards import Tokens, TokenStream, held_out_stream
from gptlab.errors import require
from gptlab.evaluation.reference import computed, stored
from gptlab.model.config import GPTConfig
from gptlab.registry import name_of
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Reading, needs_reference
from gptlab.tasks.inputs import HeldOut
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.saved import Saved
from gptlab.tokenizers.unspelled import Unspelled


@dataclass(frozen=True)
class HeldOutData:
    """Examples to score, and what their scores hold for."""

    examples: HeldOut
    records: Sequence[Record] | None  # one an example; None: windows of a text
    bytes: int | None  # that the targets spell; None if that is not known
    reading: Reading
    protocol: dict[str, Any]
    data_hash: str
    unspelled: Unspelled | None = None  # characters of the text that its tokens do not spell


@dataclass(frozen=True)
class Sliding:
    """Windows over each document by itself that move on by `stride` ids at a time; None: by half a window."""

    stride: int | None = None


def held_out_data(
    run: RunDir,
    task: Any,
    config: GPTConfig,
    tokenizer: Tokenizer,
    data: BatchConfig | None,
    block_size: int | None,
    sliding: Sliding | None = None,
) -> HeldOutData:
    """Return what a run holds out, or a data option, in windows or examples of at most block_size ids.

    `config` is that of the run's model, whose context is taken where there is no block_size. A text is read as in
    training, or in `sliding` windows. Raises UserError where the run keeps nothing, or the task does not learn from
    such data.
    """
    size = block_size or config.block_size
    require_context(config, size)
    if data is None:
        why, todo = "the run has no held-out text of its own", "say which: data=text data.files=[...]"
        require(run.has_held_out(), "data", "null", why, todo)
    else:
        why, todo = f"gives {data.gives}, and the run's task learns from {' or '.join(task.learns_from)}", "choose such"
        require(data.gives in task.learns_from, "data", name_of(data), why, todo)
    if isinstance(data, ExampleData) or (data is None and run.holds_out(EXAMPLES)):
        require(sliding is None, "protocol", "sliding", "goes with text, and these are examples", "leave it out")
        return _examples(run, task, tokenizer, data, size)
    if data is None:
        tokens, n_bytes = held_out_stream(run.path / "held_out")
        manifest = run.held_out_manifest()
        data_hash, lost = manifest["sha256"], unspelled(manifest.get("val", {}), [tokens], tokenizer)
    else:
        corpus = prepare(data, Saved(str(run.path / "tokenizer")), parts=["val"])
        tokens, n_bytes, data_hash = corpus.val, corpus.val_bytes, corpus.manifest["sha256"]
        lost = corpus.unspelled["val"]
    require_length(tokens, size)
    if sliding is None:
        by_documents, alone = run.windows()
        windows = task.held_out(tokens, size, tokenizer.eot, by_documents)
        reading = Reading(tokenizer.eot if alone else None)
        how = reading_protocol(tokenizer, size, by_documents, alone)
    else:
        windows, how = _sliding(task, tokenizer, tokens, size, sliding)
        reading = Reading()
    return HeldOutData(windows, None, n_bytes, reading, how, data_hash, lost)


def reading_protocol(tokenizer: Tokenizer, block_size: int, by_documents: bool, alone: bool) -> dict[str, Any]:
    """Return in words how a text is read: also what stands before a document, where that is not what ends it."""
    found = protocol(block_size, by_documents, alone)
    return found if tokenizer.end_of_document is None else {**found, "begins_with": tokenizer.spell(tokenizer.eot)}


def _sliding(
    task: Any, tokenizer: Tokenizer, tokens: TokenStream, size: int, sliding: Sliding
) -> tuple[SlidingWindows, dict[str, Any]]:
    """Return the sliding windows of a text, and in words how it is read."""
    stride = sliding.stride or max(1, size // 2)
    require(stride <= size, "stride", stride, f"is more than a window of block_size={size}", f"give at most {size}")
    why = f"reads a text token by token, and the run's task, {name_of(task)}, does not predict the next one"
    require(task.predicts_tokens, "protocol", "sliding", why, "leave it out")
    how = {**reading_protocol(tokenizer, size, True, True), "stride": stride, "windows": "sliding over each document"}
    return SlidingWindows(tokens, size, stride, tokenizer.eot), how


def _examples(run: RunDir, task: Any, tokenizer: Tokenizer, data: ExampleData | None, size: int) -> HeldOutData:
    if data is None:
        records, manifest = examples.held_out_records(run.path / "held_out")
    else:
        found = examples.read_examples(data, Saved(str(run.path / "tokenizer")))
        records, manifest = found.val, found.manifest
    held_out = task.examples(records, tokenizer, size, False)
    if needs_reference(task):
        as_read = data is None and size == run.config()["model"]["block_size"]
        held_out.reference = stored(run, held_out) if as_read else computed(run, task, held_out)
    return HeldOutData(held_out, records, None, Reading(), examples.protocol(size), manifest["sha256"])


def require_context(config: GPTConfig, block_size: int) -> None:
    """Refuse more positions than a model has learned."""
    context, ok = config.block_size, can_read(config, block_size)
    why = f"is more than the {context} positions that the model has learned"
    require(ok, "block_size", block_size, why, f"give at most {context}")


def can_read(config: Any, block_size: int) -> bool:
    """Tell whether a model has positions for so many tokens at once."""
    return bool(block_size <= config.block_size or getattr(config, "reads_beyond", False))


def require_length(tokens: Tokens | TokenStream, block_size: int) -> None:
    """Refuse a text that is shorter than a window."""
    why, todo = (
        f"its {len(tokens)} tokens are less than one window of block_size={block_size}",
        "hold out more, or give",
    )
    require(len(tokens) > block_size, "data.val_fraction", "held-out", why, f"{todo} more text")
