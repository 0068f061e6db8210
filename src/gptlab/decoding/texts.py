"""Generate texts that continue prompts: drawn for all prompts in one batch, and decoded token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gptlab.decoding.beam import beam_search
from gptlab.decoding.context import Limits, Model
from gptlab.decoding.decoders import Beam, Decoder
from gptlab.decoding.generate import Key, Step, generate
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.streaming import TextStream
from gptlab.errors import require


class Codec(Protocol):
    """The part of a tokenizer's interface that decoding needs."""

    @property
    def n_vocab(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass
class Continuation:
    """The text that follows a prompt, its ids, and its log-probability under the model, in nats."""

    prompt: str
    text: str
    ids: list[int]
    logprob: float
    score: float | None = None  # of beam search
    steps: list[Step] = field(default_factory=list)  # one per id; empty for beam search

    def record(self) -> dict[str, Any]:
        """Return the continuation as plain values, with the log-probability of each token, or the search's score."""
        scored = {"logprobs": [step.logprob for step in self.steps]} if self.score is None else {"score": self.score}
        return {"prompt": self.prompt, "text": self.text, "ids": self.ids, "logprob": self.logprob, **scored}


def continue_prompts(
    gpt: Model,
    tokenizer: Codec,
    prompts: Sequence[str],
    keys: Sequence[Key],
    decoder: Decoder,
    limits: Limits,
    processors: LogitsProcessors | None = None,
    stop: Sequence[str] = (),
    said: Callable[[int, str], None] = lambda row, text: None,
    start: Sequence[int] = (),
) -> list[Continuation]:
    """Draw one text for each prompt, in one batch; each row's draws depend on its key alone (see `draw_key`).

    `start` are the ids before every prompt, such as bos.

    A text ends before the first of the `stop` strings. `said(row, text)` is called with every piece of a text as soon
    as it is final.
    """
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    streams = [TextStream(tokenizer.decode, stop, each) for each in ids]
    steps: list[list[Step]] = [[] for _ in prompts]
    begun = [[*start, *each] for each in ids]
    for step in generate(gpt, begun, decoder, limits, keys, processors, lambda row, token: streams[row].stopped):
        steps[step.row].append(step)
        said(step.row, streams[step.row].add(step.token))
    for row, stream in enumerate(streams):
        said(row, stream.end())
    return [
        Continuation(prompt, stream.text, stream.ids, sum(step.logprob for step in row), steps=row)
        for prompt, stream, row in zip(prompts, streams, steps, strict=True)
    ]


def best_continuations(
    gpt: Model, tokenizer: Codec, prompt: str, decoder: Beam, limits: Limits, number: int, start: Sequence[int] = ()
) -> list[Continuation]:
    """Search the `number` most probable texts that continue a prompt, best first; `start` are the ids before it."""
    why = f"beam search with {decoder.beams} beams finds no more"
    require(number <= decoder.beams, "num_samples", number, why, "raise decoder.beams")
    ids = tokenizer.encode(prompt)
    found = beam_search(gpt, [*start, *ids], decoder, limits)[:number]
    return [
        Continuation(prompt, decoded_after(tokenizer, ids, each.ids), each.ids, each.logprob, each.score)
        for each in found
    ]


def decoded_after(tokenizer: Codec, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text of ids that follow a prompt: what both spell, less what the prompt spells by itself."""
    return tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :]


def with_ids(processors: LogitsProcessors, tokenizer: Codec) -> LogitsProcessors:
    """Replace banned texts by their token ids.

    Raises UserError for texts that are not one token, and for ids that do not exist.
    """
    banned = []
    for given in processors.banned:
        ids = [given] if isinstance(given, int) else tokenizer.encode(str(given))
        why = f"is {len(ids)} tokens" if len(ids) != 1 else f"is not one of the {tokenizer.n_vocab} ids"
        fits = len(ids) == 1 and 0 <= ids[0] < tokenizer.n_vocab
        require(fits, "logits_processors.banned", given, why, "give ids, or texts that are one token each")
        banned += ids
    return replace(processors, banned=banned)
