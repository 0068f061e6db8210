"""Time what `generate` does: reading a prompt up to its first new token, and each step behind it."""

import time
from typing import Any

import torch

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import generate

MOST_PROMPTS, MOST_STEPS = 20, 200  # that are timed


def prefill_seconds(gpt: Any, length: int, limits: Limits, until: float) -> list[float]:
    """Return the seconds from a prompt of `length` random ids to its first new token, for some repetitions.

    They end at the time `until`, by time.perf_counter. The first one warms up; it counts where there is time for no
    other.
    """
    found: list[float] = []
    while len(found) <= MOST_PROMPTS and (not found or time.perf_counter() < until):
        prompt = [_random_ids(length, limits.n_vocab, seed=len(found))]
        start = time.perf_counter()
        for _ in generate(gpt, prompt, Greedy(), Limits(1, limits.block_size, n_vocab=limits.n_vocab), [(0, 0)]):
            found.append(time.perf_counter() - start)
    return found[1:] or found


def decode_seconds(gpt: Any, batch: int, prompt: int, limits: Limits, until: float) -> list[float]:
    """Return the seconds of the steps behind the first of `batch` texts, each of which begins with `prompt` ids.

    A step gives each text a token. The texts have one prompt, which is read once. Texts of `limits.max_new_tokens`
    follow one another up to the time `until`, by time.perf_counter; one step is timed at the least.
    """
    prompts, keys = batch * [_random_ids(prompt, limits.n_vocab, seed=batch)], [(0, row) for row in range(batch)]
    found: list[float] = []
    while len(found) < MOST_STEPS and (not found or time.perf_counter() < until):
        last = None
        for step in generate(gpt, prompts, Greedy(), limits, keys):
            if step.row:
                continue
            now = time.perf_counter()  # all work is done: the ids of the step are known on the CPU
            found += [] if last is None else [now - last]
            if found and now >= until:
                break
            last = now
    return found


def _random_ids(length: int, n_vocab: int | None, seed: int) -> list[int]:
    assert n_vocab is not None
    ids: list[int] = torch.randint(n_vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids
