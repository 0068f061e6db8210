"""Texts that continue prompts: drawn for all prompts in one batch, and spelled as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gptlab.decoding.decoders import Beam, Decoder
from gptlab.decoding.generate import Limits, Model, Step, beam_search, generate
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.streaming import TextStream


class Codec(Protocol):
    """The two directions of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass
class Continuation:
    """The text that follows a prompt, its ids, and its log-probability under the model, in nats."""

    text: str
    ids: list[int]
    logprob: float
    score: float | None = None  # of beam search
    steps: list[Step] = field(default_factory=list)  # one for each id; none of beam search


def continue_prompts(
    gpt: Model,
    tokenizer: Codec,
    prompts: Sequence[str],
    keys: Sequence[tuple[int, ...]],
    decoder: Decoder,
    limits: Limits,
    controls: LogitsProcessors | None = None,
    stop: Sequence[str] = (),
    said: Callable[[int, str], None] = lambda row, text: None,
) -> list[Continuation]:
    """Draw one text for each prompt, in one batch; each row's draws depend on its key alone.

    A text ends before the first of the `stop` strings. `said(row, text)` gets every piece of a text as soon as it is
    sure.
    """
    streams = [TextStream(tokenizer.decode, stop) for _ in prompts]
    steps: list[list[Step]] = [[] for _ in prompts]
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    for step in generate(gpt, ids, decoder, limits, keys, controls, lambda row, token: streams[row].stopped):
        steps[step.row].append(step)
        said(step.row, streams[step.row].add(step.token))
    for row, stream in enumerate(streams):
        said(row, stream.end())
    return [
        Continuation(stream.text, stream.ids, sum(step.logprob for step in row), steps=row)
        for stream, row in zip(streams, steps, strict=True)
    ]


def best_continuations(
    gpt: Model, tokenizer: Codec, prompt: str, decoder: Beam, limits: Limits, number: int
) -> list[Continuation]:
    """Search the `number` most probable texts that continue a prompt, best first."""
    found = beam_search(gpt, tokenizer.encode(prompt), decoder, limits)[:number]
    return [Continuation(tokenizer.decode(each.ids), each.ids, each.logprob, each.score) for each in found]
