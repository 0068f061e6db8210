"""A text as a model sees it: every token by its surprise, with what the model expected instead."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.sampler import EvalBatches
from gptlab.data.batches.windows import whole
from gptlab.data.text.readers import Reading, read
from gptlab.errors import require
from gptlab.model.gpt import GPT
from gptlab.reporting import html as pages
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer

MOST = 20_000  # tokens on a page


def explain(run: RunDir, gpt: GPT, tokenizer: Tokenizer, name: str, block_size: int, batch_size: int) -> dict[str, Any]:
    """Write RUN/surprise.html for a text file; returns the mean surprise and how many tokens it is over."""
    path = Path(name).expanduser()
    require(path.is_file(), "text", name, "no such file", "give a text file")
    text = "".join(chunk.text for chunk in read(path, Reading("text", None, "strict"), "text"))
    require(bool(text), "text", name, "is empty", "give a file with some text")
    ids = np.array([tokenizer.eot, *tokenizer.encode(text)[:MOST]])
    surprise, guesses = surprises(gpt, ids, block_size, batch_size, tokenizer.n_vocab)
    tokens = []
    for token, nats, guess in zip(ids[1:].tolist(), surprise, guesses, strict=True):
        lines = [f"{share:7.1%}  {tokenizer.spell(other)!r}" for other, share in guess]
        tokens.append(pages.Coloured(tokenizer.spell(token), nats, ["expected", *lines]))
    mean = sum(surprise) / len(surprise)
    rest = "" if len(tokens) < MOST else f" (the first {MOST:,})"
    what = f"{path.name}: {len(tokens):,} tokens{rest}, {mean:.3f} nats each; point at a token to see the best guesses"
    page = run.path / "surprise.html"
    pages.write(page, "How surprising each token is", what, pages.scale(), pages.coloured_text(tokens))
    Console().print(f"{what.partition(';')[0]}\nthe page is {page}", markup=False, highlight=False, soft_wrap=True)
    return {"loss": mean, "tokens": len(tokens), "page": str(page)}


@torch.no_grad()
def surprises(
    gpt: GPT, ids: np.ndarray[Any, Any], block_size: int, batch_size: int, n_vocab: int
) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """For each id after the first: -log of its probability in nats, and the three best guesses with their shares."""
    device, windows = next(gpt.parameters()).device, whole(ids, block_size)
    surprise: list[float] = []
    guesses: list[list[tuple[int, float]]] = []
    for indices in EvalBatches(len(windows), batch_size):
        x, y, _ = windows.__getitems__(indices)
        counted = y != IGNORE
        probs = gpt(x.to(device))[..., :n_vocab].float().softmax(-1).cpu()[counted]  # (N, V)
        surprise += (-probs.gather(-1, y[counted][:, None])[:, 0].log()).tolist()
        shares, best = probs.topk(min(3, n_vocab))
        guesses += [list(zip(b, s, strict=True)) for b, s in zip(best.tolist(), shares.tolist(), strict=True)]
    return surprise, guesses
