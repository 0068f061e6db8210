"""Score the model of a run on held-out data, all of them, by the run's task."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gptlab.data.batches.batch import IGNORE, tensors
from gptlab.data.batches.sampler import EvalBatches
from gptlab.data.batches.windows import Windows
from gptlab.data.config import BatchConfig
from gptlab.evaluation.held_out import HeldOutData, Sliding, held_out_data
from gptlab.evaluation.model import load_with_task
from gptlab.evaluation.precision import weight_bytes
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Detailed, Figures, Reading, Sums, Task, target_of
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tasks.inputs import HeldOut
from gptlab.tokenizers import fingerprint

Nats = np.ndarray[Any, np.dtype[np.float64]]


def evaluate(
    run: RunDir,
    data: BatchConfig | None = None,
    context: int | None = None,
    batch_size: int = 16,
    sliding: Sliding | None = None,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Score the model of a run on what is held out: by the run itself, or by a data option, in windows of `context`.

    Returns the scores of the run's task (for causal_lm the loss in nats per token, perplexity and bits per byte); what
    they are over: examples, or tokens, where the task predicts tokens (`target_of`), and bytes
    (None if that is not known); and what they hold for: how the data were read, and hashes of tokenizer and
    data. If the tokens do not spell all of a text, bits per byte is None, and `unspelled` counts the characters, of
    `characters`, which is the `unspelled_fraction`. A task may say more (`Detailed`), such as a confusion matrix.
    `precision` is one of PRECISIONS, and the bytes are those of the weights in memory.
    """
    task, gpt, tokenizer = load_with_task(run, precision)
    found = held_out_data(run, task, gpt.config, tokenizer, data, context, sliding)
    sums = measure(gpt, task, found.examples, batch_size, found.reading)
    more = task.details(sums) if isinstance(task, Detailed) else {}
    computed = {"precision": precision, "weight_bytes": weight_bytes(gpt)}
    return {**scored(task, sums, found), **described(run, task, found, int(sums["targets"].sum())), **computed, **more}


def scored(task: Task, sums: Mapping[str, Any], found: HeldOutData) -> dict[str, Any]:
    """Return a task's scores of held-out data, by its sums over all of them."""
    scores: dict[str, Any] = task.scores(sums, None if found.unspelled else found.bytes)
    undefined = found.unspelled and "val/bits_per_byte" in task.metrics
    return {**scores, **({"bits_per_byte": None} if undefined else {})}


def described(run: RunDir, task: Task, found: HeldOutData, targets: int) -> dict[str, Any]:
    """Return what scores are over, and what they hold for."""
    return {
        **(found.unspelled.record() if found.unspelled else {}),
        **({} if found.records is None else {"examples": len(found.records)}),
        f"{target_of([task])}s": targets,
        "bytes": found.bytes,
        "protocol": found.protocol,
        "tokenizer_hash": fingerprint(run.path / "tokenizer"),
        "data_hash": found.data_hash,
    }


def measure(gpt: nn.Module, task: Task, examples: HeldOut, batch_size: int, reading: Reading | None = None) -> Sums:
    """Return a task's sums over all examples, each counted once, in float64."""
    total: Sums = {}
    for batch, figures in batch_figures(gpt, task, examples, batch_size, reading or Reading()):
        for name, sums in task.measure(figures, batch).items():
            total[name] = total.get(name, 0) + sums.double()
    return total


def example_sums(gpt: nn.Module, task: Task, examples: HeldOut, batch_size: int, reading: Reading) -> Sums:
    """Return a task's sums over each example by itself, (N, ...), in float64."""
    found: dict[str, list[Any]] = {}
    for batch, figures in batch_figures(gpt, task, examples, batch_size, reading):
        for row in range(len(next(iter(figures.values())))):
            only = type(batch)(*(each[row : row + 1] for each in tensors(batch)))
            sums = task.measure({name: values[row : row + 1] for name, values in figures.items()}, only)
            for name, values in sums.items():
                found.setdefault(name, []).append(values.double())
    return {name: torch.stack(values[: len(examples)]) for name, values in found.items()}


def token_nats(gpt: Any, windows: Windows, batch_size: int, separator: int | None) -> Iterator[Nats]:
    """Yield the cost of every target in nats, in the order of the text, (N,) a batch.

    With a `separator` no position attends to anything before the last one.
    """
    return target_nats(gpt, CausalLM(), windows, batch_size, Reading(separator))


def target_nats(gpt: nn.Module, task: Task, examples: HeldOut, batch_size: int, reading: Reading) -> Iterator[Nats]:
    """Yield the cost of every target of a task that predicts tokens, in nats, in their order, (N,) a batch."""
    for batch, figures in batch_figures(gpt, task, examples, batch_size, reading):
        yield figures["loss"][batch.y != IGNORE].numpy()


@torch.no_grad()
def batch_figures(
    gpt: nn.Module, task: Task, examples: HeldOut, batch_size: int, reading: Reading
) -> Iterator[tuple[Any, Figures]]:
    """Yield each batch with the figures of its targets in float64; both are on the CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpt = gpt.to(device)
    for indices in EvalBatches(len(examples), min(batch_size, len(examples))):
        batch = examples.__getitems__(indices)
        figures = task.losses(gpt, *(each.to(device) for each in tensors(batch)), reading=reading)
        yield batch, {name: values.cpu().double() for name, values in figures.items()}
