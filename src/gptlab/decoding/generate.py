"""Run the autoregressive loop: predict, draw, append (Jurafsky & Martin sec. 10.2), for a batch of prompts at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptlab.decoding.beam import beam_search
from gptlab.decoding.context import Context, Limits, Model
from gptlab.decoding.decoders import Beam, Decoder
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.errors import require
from gptlab.randomness import text_position, uniform

Key = tuple[int, ...]  # a draw depends on these numbers and the step


class Step(NamedTuple):
    """One new token of one row."""

    row: int
    token: int
    logprob: float  # under the model, in nats
    logits: Tensor  # (V,) of the model
    processed: Tensor  # (V,) after the logits processors
    probs: Tensor  # (V,) the distribution for the draw


def draw_key(seed: int, prompt: str, sample: int) -> Key:
    """Return the key of sample number `sample` of a prompt: its draws depend on this and the step alone."""
    return seed, text_position(prompt), sample


@torch.no_grad()
def generate(
    gpt: Model,
    prompts: Sequence[Sequence[int]],
    decoder: Decoder,
    limits: Limits,
    keys: Sequence[Key],
    processors: LogitsProcessors | None = None,
    ended: Callable[[int, int], bool] = lambda row, token: False,
) -> Iterator[Step]:
    """Yield new tokens one at a time, row by row, until every row has ended.

    A row ends with one of limits.ends, with `max_new_tokens`, or when `ended(row, token)` returns true for one of its
    tokens. Its draws depend on its key (see `draw_key`) and the step: its place in the batch, the other rows, and
    anything that ran before have no effect. `gpt` keeps its mode: call `gpt.eval()` first.
    """
    for prompt in prompts:
        require(len(prompt) > 0, "prompt", "", "is empty", 'give some text, e.g. prompt="Once upon"')
        fits = limits.overflow != "refuse" or len(prompt) + limits.max_new_tokens - 1 <= limits.block_size
        why = f"and {limits.max_new_tokens} new ones do not fit into the context of {limits.block_size}"
        require(fits, "prompt", f"{len(prompt)} tokens", why, "shorten it, or overflow=crop")
    processors = processors or LogitsProcessors()
    texts: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    context = Context(gpt, limits)
    for step in range(limits.max_new_tokens):
        logits = context.read([[*prompts[row], *texts[row]] for row in running])
        finite, why = bool(finite_rows(logits).all()), "has diverged: its logits are not finite"
        require(finite, "run", "its model", why, "take an earlier checkpoint")
        processed = processors(logits, [prompts[row] for row in running], [texts[row] for row in running])
        probs = decoder(processed)
        tokens = draw(probs, [(*keys[row], step) for row in running])
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
        still = []
        for i, (row, token) in enumerate(zip(running, tokens.tolist(), strict=True)):
            if token in limits.ends:
                continue
            texts[row].append(token)
            yield Step(row, token, logprobs[i], logits[i], processed[i], probs[i])
            if not ended(row, token):
                still.append(row)
        if not still:
            return
        context.keep([running.index(row) for row in still])
        running = still


def continue_ids(gpt: Model, prompt: Sequence[int], decoder: Decoder | Beam, limits: Limits, key: Key) -> list[int]:
    """Return the new ids that any decoder draws after one prompt."""
    if isinstance(decoder, Beam):
        return beam_search(gpt, prompt, decoder, limits)[0].ids
    return [step.token for step in generate(gpt, [prompt], decoder, limits, [key])]


def finite_rows(logits: Tensor) -> Tensor:
    """Return which rows of logits (B, V) are finite, (B,); extremes take a tenth of the time of all numbers."""
    return logits.amin(-1).isfinite() & logits.amax(-1).isfinite()  # those of NaN are NaN


def draw(probs: Tensor, keys: Sequence[Key]) -> Tensor:
    """Draw one token per row of probs (B, V), (B,), by the uniform number of the row's key."""
    numbers = [uniform(seed, "draw", *position) for seed, *position in keys]
    mass = probs.to(torch.float64, copy=True).cumsum_(-1)
    end = mass[:, -1:]
    at = torch.tensor(numbers, dtype=torch.float64, device=probs.device)[:, None] * end
    at = torch.minimum(at, torch.nextafter(end, torch.zeros_like(end)))  # rounding must not go past the last token
    return torch.searchsorted(mass, at, right=True)[:, 0]
