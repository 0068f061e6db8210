"""Score, besides what a run learns from, what the run that it began with holds out: it shows what is forgotten."""

from typing import Any

from rich.console import Console

from gptlab.data.batches.build import Data
from gptlab.data.batches.examples import ExampleDataModule, held_out_records
from gptlab.data.config import EXAMPLES
from gptlab.data.tokens.prepare import unspelled
from gptlab.data.tokens.shards import held_out_stream
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Reading, needs_reference
from gptlab.tasks.inputs import Part
from gptlab.tasks.saved import task_of
from gptlab.tokenizers import Tokenizer


def score_old(data: Data, source: RunDir, block_size: int, console: Console) -> None:
    """Let validations also score what a run holds out, as `old`, by its own task; say where that cannot be."""
    assert isinstance(data.module, ExampleDataModule)
    task = task_of(source.config())
    if source.has_held_out() and task.predicts_tokens and not needs_reference(task):
        data.module.val_parts["old"] = _held_out(source, task, data.tokenizer, block_size)
        return
    line = f"data.old_loss=true: {source.path} holds out no text that a language model scores; left out"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _held_out(source: RunDir, task: Any, tokenizer: Tokenizer, block_size: int) -> Part:
    folder = source.path / "held_out"
    if source.holds_out(EXAMPLES):
        records, _ = held_out_records(folder)
        return Part(task.examples(records, tokenizer, block_size, False), task, Reading(), None)
    tokens, n_bytes = held_out_stream(folder)
    lost = unspelled(source.held_out_manifest().get("val", {}), [tokens], tokenizer)
    by_documents, alone = source.windows()
    windows = task.held_out(tokens, block_size, tokenizer.eot, by_documents)
    return Part(windows, task, Reading(tokenizer.eot if alone else None), None if lost else n_bytes)
