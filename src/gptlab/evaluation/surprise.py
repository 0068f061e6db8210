"""Compute the surprise of every token of a text under a model, and the model's best guesses."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.sampler import EvalBatches
from gptlab.data.batches.windows import whole
from gptlab.data.text.readers import Reading, read
from gptlab.errors import require
from gptlab.tokenizers import Tokenizer

MOST = 20_000  # tokens of a text
ENOUGH = 1 << 24  # characters, of which no tokenizer makes fewer


class TokenSurprise(NamedTuple):
    """A token, its surprise in nats, and the best guesses in its place, each with its probability."""

    token: int
    nats: float
    guesses: list[tuple[int, float]]


def file_surprises(
    gpt: nn.Module, tokenizer: Tokenizer, name: str, block_size: int, batch_size: int
) -> list[TokenSurprise]:
    """Return the surprise of each of the first MOST tokens of a text file; raises UserError where it has no text."""
    path = Path(name).expanduser()
    require(path.is_file(), "text", name, "no such file", "give a text file")
    text = ""
    for chunk in read(path, Reading("text", None, "strict"), "text"):
        text += chunk.text
        if len(text) > ENOUGH:
            break
    require(bool(text), "text", name, "is empty", "give a file with some text")
    ids = np.array([tokenizer.eot, *tokenizer.encode(text)[:MOST]])
    return surprises(gpt, ids, block_size, batch_size, tokenizer.n_vocab)


@torch.no_grad()
def surprises(
    gpt: nn.Module, ids: np.ndarray[Any, Any], block_size: int, batch_size: int, n_vocab: int
) -> list[TokenSurprise]:
    """Return -log of the probability of each id after the first, and the three best guesses."""
    device, windows = next(gpt.parameters()).device, whole(ids, block_size)
    found: list[TokenSurprise] = []
    for indices in EvalBatches(len(windows), batch_size):
        x, y, *_ = windows.__getitems__(indices)
        counted = y != IGNORE
        probs = gpt(x.to(device))[..., :n_vocab].float().softmax(-1).cpu()[counted]  # (N, V)
        nats = (-probs.gather(-1, y[counted][:, None])[:, 0].log()).tolist()
        shares, best = probs.topk(min(3, n_vocab))
        guesses = (list(zip(b, s, strict=True)) for b, s in zip(best.tolist(), shares.tolist(), strict=True))
        found += map(TokenSurprise, y[counted].tolist(), nats, guesses)
    return found
