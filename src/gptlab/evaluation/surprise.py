"""Compute the surprise of every token of a text under a model, and the model's best guesses."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.sampler import EvalBatches
from gptlab.data.batches.windows import whole
from gptlab.data.text.readers import Reading, read
from gptlab.errors import require
from gptlab.evaluation.held_out import reading_protocol
from gptlab.model.gpt import read_by_document
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.cross_entropy import cross_entropy
from gptlab.tokenizers import Tokenizer

MOST = 20_000  # tokens of a text
ENOUGH = 1 << 24  # characters, of which no tokenizer makes fewer


class TokenSurprise(NamedTuple):
    """A token, its surprise in nats, and the best guesses in its place, each with its probability."""

    token: int
    nats: float
    guesses: list[tuple[int, float]]


def file_surprises(
    run: RunDir, gpt: Any, tokenizer: Tokenizer, name: str, block_size: int, batch_size: int
) -> tuple[list[TokenSurprise], dict[str, Any]]:
    """Return the surprise of each of the first MOST tokens of a text file, and how it was read, which is as `evaluate`
    reads it; raises UserError where it has no text."""
    path = Path(name).expanduser()
    require(path.is_file(), "text", name, "no such file", "give a text file")
    text = ""
    for chunk in read(path, Reading("text", None, "strict"), "text"):
        text += chunk.text
        if len(text) > ENOUGH:
            break
    require(bool(text), "text", name, "is empty", "give a file with some text")
    ids = np.array([tokenizer.eot, *tokenizer.encode(text)[:MOST]])
    by_documents, alone = run.windows()
    how = {**reading_protocol(tokenizer, block_size, by_documents, alone), "first_tokens": MOST}
    separator = tokenizer.eot if alone else None
    return surprises(gpt, ids, block_size, batch_size, tokenizer.n_vocab, separator), how


@torch.no_grad()
def surprises(
    gpt: Any,
    ids: np.ndarray[Any, Any],
    block_size: int,
    batch_size: int,
    n_vocab: int,
    separator: int | None = None,
) -> list[TokenSurprise]:
    """Return -log of the probability of each id after the first, and the three best guesses among `n_vocab` ids.

    The cost of a token is the task's, as it is in evaluation. With a `separator` no position attends beyond it.
    """
    device, windows = next(gpt.parameters()).device, whole(ids, block_size)
    found: list[TokenSurprise] = []
    for indices in EvalBatches(len(windows), batch_size):
        x, y, *_ = windows.__getitems__(indices)
        counted = y != IGNORE
        logits = read_by_document(gpt, x.to(device), separator).float()
        nats = cross_entropy(logits, y.to(device), "none").view_as(y).cpu()[counted].tolist()
        shares, best = logits.cpu()[counted].softmax(-1)[:, :n_vocab].topk(min(3, n_vocab))
        guesses = (list(zip(b, s, strict=True)) for b, s in zip(best.tolist(), shares.tolist(), strict=True))
        found += map(TokenSurprise, y[counted].tolist(), nats, guesses)
    return found
