"""Take the loss on held-out text apart: by position in the window, frequency, repetition and place in the document.

Each of these divides all predicted tokens into classes, whose nats and tokens add up to those of the whole text.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.windows import Windows
from gptlab.data.config import BatchConfig
from gptlab.errors import require
from gptlab.evaluation.compared import Compared
from gptlab.evaluation.documents import FEWEST, SHORTEST, STRETCHES
from gptlab.evaluation.held_out import HeldOutData, Sliding, can_read, held_out_data
from gptlab.evaluation.model import load_with_task, require_next_tokens
from gptlab.evaluation.perplexity import batch_figures, described
from gptlab.evaluation.statistics import LEVEL, Array, paired_bootstrap, ratio_intervals
from gptlab.runs.run_dir import RunDir, located
from gptlab.tasks.base import Task

Ints = np.ndarray[Any, np.dtype[np.int64]]
RESAMPLES, SEED = 2000, 1337
REPETITION = ("first", "repeated")
PARTITIONS = ("position", "frequency", "in_document", "in_context", "place")


@dataclass(frozen=True)
class Targets:
    """Hold what is known of each predicted token of a text, (N,) each, in the order of the text."""

    nats: Array
    position: Ints  # the ids that are read before it
    frequency: Ints  # how often its id stands in the text
    in_document: Ints  # 1 if its id has occurred before in its document; what separates documents is no part of them
    in_context: Ints  # 1 if its id is among those that are read before it
    place: Ints  # in its document: 1 is what follows the separator, and the last is the separator behind it
    document: Ints  # its number


def anatomy(
    run: RunDir,
    data: BatchConfig | None,
    block_size: int | None,
    batch_size: int,
    sliding: Sliding | None,
    length: int,
) -> dict[str, Any]:
    """Return the anatomy of the loss of a run, as plain values, and the loss in windows of up to `length` contexts.

    A context is `block_size`, or what the model was trained with. Raises UserError where the run's task does not
    predict the tokens of a text, or its model has diverged.
    """
    require_next_tokens(run)
    task, gpt, tokenizer = load_with_task(run)
    context = block_size or gpt.config.block_size
    lengths: list[dict[str, Any]] = []
    first: tuple[Targets, Ints, dict[str, Any]] | None = None
    for size in (context * times for times in doublings(length)):
        if not can_read(gpt.config, size):
            why = f"the model has learned {gpt.config.block_size} positions"
            lengths.append({"block_size": size, "loss": None, "why": why})
            continue
        found = held_out_data(run, task, gpt.config, tokenizer, data, size, sliding)
        at_once = max(1, batch_size * context // size)
        targets = read_targets(gpt, task, found, tokenizer.eot, at_once)
        Compared("run", run).require_finite(math.isfinite(targets.nats.sum()))
        if first is None:
            units, what = units_of(targets)
            of_text = {"run": located(run), "units": what, "level": LEVEL, **described(run, task, found, len(units))}
            first = targets, units, of_text
        whole = _classes(targets.nats, np.zeros_like(first[1]), first[1], ["all"])[0]
        by_position = partition(targets, "position", first[1], context)
        lengths.append({"block_size": size, **whole, "difference": None, "position": by_position})
        if targets is not first[0]:
            lengths[-1]["difference"] = _difference(first[0].nats, targets.nats, first[1])
    assert first is not None  # a model reads its own context
    targets, units, of_text = first
    classes = {name: partition(targets, name, units, context) for name in PARTITIONS}
    return {**{key: lengths[0][key] for key in ("loss", "interval", "nats")}, **of_text, **classes, "lengths": lengths}


def doublings(length: int) -> list[int]:
    """Return 1, 2, 4 and so on, and `length`."""
    return sorted({*(2**k for k in range(length.bit_length())), length})


def read_targets(gpt: Any, task: Task, found: HeldOutData, eot: int, batch_size: int) -> Targets:
    """Score a held-out text, and return what is known of each predicted token; raises UserError for examples."""
    windows = found.examples
    why, todo = "reads a text, and what the run holds out are examples", "say which: data=text data.files=[...]"
    require(isinstance(windows, Windows), "anatomy", True, why, todo)
    assert isinstance(windows, Windows)
    nats: list[Any] = []
    at: list[Any] = []  # of each target, in the stream
    begins: list[Any] = []  # of what is read before it
    row = 0
    for batch, figures in batch_figures(gpt, task, windows, batch_size, found.reading):
        counted = (batch.y != IGNORE).numpy()
        rows, columns = np.nonzero(counted)
        starts = np.asarray(windows.starts[row : row + len(counted)], np.int64)[rows]
        nats.append(figures["loss"].numpy()[counted])
        at.append(starts + columns + 1)
        begins.append(starts)
        row += len(counted)
    alone = found.reading.separator is not None
    return _targets(windows, np.concatenate(nats), np.concatenate(at), np.concatenate(begins), eot, alone)


def _targets(windows: Windows, nats: Array, at: Ints, begins: Ints, eot: int, alone: bool) -> Targets:
    """Return what is known of the targets at some places of a stream; with `alone`, nothing is read before a document.

    A separator belongs to the document that it ends.
    """
    stream: Any = windows.tokens
    ids: Ints = stream[0 : len(stream)].astype(np.int64)
    starts = stream.document_starts(eot)
    document = np.searchsorted(starts, at - 1, side="right") - 1
    started = starts[document]
    begins = np.maximum(begins, started) if alone else begins
    before = _previous(ids)[at]
    text = started + (ids[started] == eot)
    return Targets(
        nats=nats,
        position=at - begins,
        frequency=np.bincount(ids)[ids[at]],
        in_document=(before >= text).astype(np.int64),
        in_context=(before >= begins).astype(np.int64),
        place=at - started,
        document=document,
    )


def _previous(ids: Ints) -> Ints:
    """Return the last earlier place of each id, (N,); -1 where there is none."""
    order = np.argsort(ids, kind="stable")
    same = ids[order][1:] == ids[order][:-1]
    found = np.full(len(ids), -1)
    found[order[1:][same]] = order[:-1][same]
    return found


def units_of(targets: Targets) -> tuple[Ints, str]:
    """Return the unit that each target belongs to, for the bootstrap, (N,), and what the units are, in words.

    They are documents, or, where there are few, stretches of documents, since neighbours are alike.
    """
    _, number, counts = np.unique(targets.document, return_inverse=True, return_counts=True)
    if len(counts) >= FEWEST:
        return number, f"{len(counts):,} documents"
    stretch = max(SHORTEST, len(number) // STRETCHES)
    begun = np.concatenate([[0], np.cumsum(counts)[:-1]])[number]
    within = np.minimum((np.arange(len(number)) - begun) // stretch, np.maximum(counts[number] // stretch - 1, 0))
    _, found = np.unique(number * len(number) + within, return_inverse=True)
    return found, f"{found.max() + 1:,} stretches of {stretch:,} tokens"


def partition(targets: Targets, name: str, units: Ints, context: int) -> list[dict[str, Any]]:
    """Return the classes of one partition that have targets, each with its nats, tokens, loss and interval."""
    values: Ints = getattr(targets, name)
    if name in ("in_document", "in_context"):
        return _classes(targets.nats, values, units, list(REPETITION))
    ends = upper_bounds(name, int(values.max()), context)
    lows = [1, *(end + 1 for end in ends[:-1])]
    labels = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high in zip(lows, ends, strict=True)]
    found = _classes(targets.nats, np.searchsorted(ends, values), units, labels)
    bounds = dict(zip(labels, zip(lows, ends, strict=True), strict=True))
    return [{**each, "low": bounds[each["class"]][0], "high": bounds[each["class"]][1]} for each in found]


def upper_bounds(name: str, most: int, context: int) -> list[int]:
    """Return the largest value of each class of a partition by numbers from 1 to `most`.

    Positions double, and a class ends at the context; places double from 1 on, and frequencies grow fourfold.
    """
    if name == "position":
        below = [context >> k for k in range(context.bit_length())][::-1]
        bounds = [*below, *(context << k for k in range(1, max(1, most.bit_length())))]
    else:
        factor, less = (4, 1) if name == "frequency" else (2, 0)
        bounds = [1, *(factor**k - less for k in range(1, most.bit_length() + 1))]
    last = next(number for number, bound in enumerate(bounds) if bound >= most)
    return bounds[: last + 1]


def _classes(nats: Array, which: Ints, units: Ints, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return the sums and the interval of each class of targets that has some; `which` (N,) is the class of each."""
    many, classes = int(units.max()) + 1, len(labels)
    cell = units * classes + which
    tokens: Array = np.bincount(cell, minlength=many * classes).reshape(many, classes).astype(np.float64)
    sums: Array = np.bincount(cell, nats, many * classes).reshape(many, classes).astype(np.float64)
    intervals = ratio_intervals(sums, tokens, RESAMPLES, SEED)
    return [
        {
            "class": label,
            "tokens": int(tokens[:, k].sum()),
            "nats": float(sums[:, k].sum()),
            "loss": float(sums[:, k].sum() / tokens[:, k].sum()),
            "interval": intervals[k],
        }
        for k, label in enumerate(labels)
        if tokens[:, k].sum()
    ]


def _difference(plain: Array, longer: Array, units: Ints) -> dict[str, float] | None:
    """Return how much the loss of the same tokens is higher in longer windows, with its interval over units."""
    sizes = np.bincount(units).astype(np.float64)
    if len(sizes) < 2:
        return None
    a, b = (np.bincount(units, nats).astype(np.float64) for nats in (plain, longer))
    return asdict(paired_bootstrap(a, b, sizes, RESAMPLES, SEED))
