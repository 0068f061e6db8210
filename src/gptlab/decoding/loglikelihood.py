"""Compute how probable given texts are after others: log-likelihoods, by which choices are compared."""

import itertools
from collections.abc import Iterator, Sequence

import torch

from gptlab.decoding.context import Model
from gptlab.errors import require

Ids = Sequence[int]


@torch.no_grad()
def loglikelihoods(
    gpt: Model, pairs: Sequence[tuple[Ids, Ids]], block_size: int, batch_size: int = 16
) -> list[tuple[float, bool]]:
    """Return the log-probability of each continuation after its context, in nats, and whether it is the greedy one.

    A pair is a context and a continuation. If both do not fit into block_size + 1, the beginning of the context is
    dropped. Pairs are read in batches of similar lengths, padded on the right, to which nothing that counts attends;
    softmax and sum are in float64.
    """
    for context, continuation in pairs:
        require(len(context) > 0, "context", "", "is empty", "give at least the separator")
        require(len(continuation) > 0, "continuation", "", "is empty", "give some text")
        why = f"is longer than the context of {block_size}"
        require(len(continuation) <= block_size, "continuation", f"{len(continuation)} tokens", why, "shorten it")
    device = next(gpt.parameters()).device
    rows = [[*context, *continuation][-block_size - 1 :] for context, continuation in pairs]
    found: dict[int, tuple[float, bool]] = {}
    for members in _batches(gpt, rows, batch_size):
        width = len(rows[members[0]]) - 1
        idx = torch.zeros(len(members), width, dtype=torch.long)
        for place, i in enumerate(members):
            idx[place, : len(rows[i]) - 1] = torch.tensor(rows[i][:-1])
        logits = gpt(idx.to(device))
        for place, i in enumerate(members):
            n, end = len(pairs[i][1]), len(rows[i]) - 1
            own = logits[place, end - n : end].double()
            target = torch.tensor(rows[i][-n:], device=device)
            logprob = own.log_softmax(-1).gather(-1, target[:, None]).sum()
            found[i] = float(logprob), bool((own.argmax(-1) == target).all())
    return [found[i] for i in range(len(pairs))]


def _batches(gpt: Model, rows: Sequence[Ids], batch_size: int) -> Iterator[list[int]]:
    """Yield the numbers of rows to read at once, the longest first: a batch that is too large fails at once.

    Rows that a model reads otherwise because they are long have batches of their own.
    """
    most = getattr(gpt, "reads_again_beyond", None)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for _, alike in itertools.groupby(order, key=lambda i: most is not None and len(rows[i]) - 1 > most):
        members = list(alike)
        yield from (members[at : at + batch_size] for at in range(0, len(members), batch_size))
