"""Read the batches of a user's own loader as rows of ids and targets."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.errors import require

Rows = tuple[Tensor, Tensor]  # x and y, (N, T) each
KEYS = {"input_ids", "labels", "attention_mask"}


def as_rows(batch: Any, name: str, block_size: int, n_vocab: int) -> Rows:
    """Return a batch of the data module `name` as ids and targets, (N, T) int64 each.

    It may be a pair (x, y), our Batch, or a dict of input_ids and labels: there position t predicts label t + 1, as
    models of Hugging Face have it, and an attention_mask may have zeros at the end of rows. Targets of -100 do not
    count. Raises UserError where it is something else, or does not fit the model.
    """

    def require_(ok: bool, why: str, todo: str) -> None:
        require(ok, "data", name, why, todo)

    found = _tensors(batch)
    keys = f" of {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
    todo = "give pairs of tensors (x, y), or dicts of input_ids, labels and attention_mask"
    require_(found is not None, f"its batches are {type(batch).__name__}{keys}", todo)
    assert found is not None
    x, y, read = found
    ids = not any(each.is_floating_point() for each in found)
    alike = x.ndim == 2 and x.shape == y.shape == read.shape
    shapes = f"{x.dtype} {(*x.shape,)} and {y.dtype} {(*y.shape,)}"
    require_(ids and alike, f"its batches have {shapes}", "give ids of one shape (rows, T)")
    at_ends = bool((read[:, 1:] <= read[:, :-1]).all())
    require_(at_ends, "its attention_mask has zeros before ones", "pad rows at their end")
    x, y = x.long(), y.long().masked_fill(read == 0, IGNORE)
    if isinstance(batch, Mapping):
        x, y = x[:, :-1], y[:, 1:]
    width = x.shape[1]
    todo = "cut them, or raise it"
    require_(0 < width <= block_size, f"its rows of {width} ids do not fit in model.block_size={block_size}", todo)
    for what, values in (("ids", x), ("targets", y[y != IGNORE])):
        known = not values.numel() or (int(values.min()) >= 0 and int(values.max()) < n_vocab)
        require_(known, f"its {what} are not all of the tokenizer's {n_vocab:,}", "make them with the run's tokenizer")
    return x, y


def _tensors(batch: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return ids, targets and attention mask; None where the batch is not understood."""
    found: list[Any] = []
    if isinstance(batch, Mapping) and {"input_ids", "labels"} <= set(batch) <= KEYS:
        found = [batch[key] for key in ("input_ids", "labels", "attention_mask") if key in batch]
    elif isinstance(batch, Batch) or (isinstance(batch, tuple | list) and len(batch) == 2):
        found = [*batch[:2]]
    if not found or not all(isinstance(each, Tensor) for each in found):
        return None
    return found[0], found[1], found[2] if len(found) == 3 else torch.ones_like(found[0])


def regrouped(rows: Iterator[Rows], sizes: Iterable[int]) -> Iterator[Rows]:
    """Yield so many rows at a time, the last time what is left, each time padded to the longest of them."""
    held: list[Rows] = []
    count, each_size = 0, iter(sizes)
    size = next(each_size)
    for each in rows:
        held.append(each)
        count += len(each[0])
        while count >= size:
            x, y = _joined(held)
            yield x[:size], y[:size]
            held, count = [(x[size:], y[size:])], count - size
            size = next(each_size)
    if count:
        yield _joined(held)


def _joined(held: list[Rows]) -> Rows:
    width = max(x.shape[1] for x, _ in held)
    xs = [F.pad(x, (0, width - x.shape[1])) for x, _ in held]
    ys = [F.pad(y, (0, width - y.shape[1]), value=IGNORE) for _, y in held]
    return torch.cat(xs), torch.cat(ys)
