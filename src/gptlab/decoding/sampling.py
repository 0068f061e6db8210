"""Prompts in, texts out: sampled in one batch, or found by beam search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gptlab.decoding.beam import beam_search
from gptlab.decoding.context import Limits, Model
from gptlab.decoding.decoders import Beam, Decoder
from gptlab.decoding.generate import Step, draw_key, generate
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.streaming import TextStream
from gptlab.errors import require


class TextCodec(Protocol):
    """A tokenizer, as far as sampling needs one."""

    n_vocab: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass
class Sampled:
    """A text that continues a prompt."""

    prompt: str
    text: str
    ids: list[int]
    logprob: float  # under the model itself, in nats
    steps: list[Step] = field(default_factory=list)  # none of a beam search
    score: float | None = None  # by which beam search ranks it

    def record(self) -> dict[str, Any]:
        """Return the text as plain values: with the log-probability of each token, or the score of the search."""
        scored = {"logprobs": [step.logprob for step in self.steps]} if self.score is None else {"score": self.score}
        return {"prompt": self.prompt, "text": self.text, "ids": self.ids, "logprob": self.logprob, **scored}


def sample_texts(
    gpt: Model,
    tokenizer: TextCodec,
    prompts: Sequence[str],
    decoder: Decoder,
    limits: Limits,
    seed: int,
    num_samples: int = 1,
    processors: LogitsProcessors | None = None,
    stops: Sequence[str] = (),
    show: Callable[[int, str], None] = lambda row, text: None,
) -> list[Sampled]:
    """Return `num_samples` texts of each prompt, all drawn in one batch; a text ends before the first of `stops`.

    `show(row, text)` is told every piece of text as soon as it is sure.
    """
    rows = [(prompt, sample) for prompt in prompts for sample in range(num_samples)]
    streams = [TextStream(tokenizer.decode, stops) for _ in rows]
    steps: list[list[Step]] = [[] for _ in rows]
    new = generate(
        gpt,
        [tokenizer.encode(prompt) for prompt, _ in rows],
        decoder,
        limits,
        [draw_key(seed, prompt, sample) for prompt, sample in rows],
        processors,
        ended=lambda row, token: streams[row].stopped,
    )
    for step in new:
        steps[step.row].append(step)
        show(step.row, streams[step.row].add(step.token))
    for row, stream in enumerate(streams):
        show(row, stream.end())
    return [
        Sampled(prompt, stream.text, stream.ids, sum(step.logprob for step in own), own)
        for (prompt, _), stream, own in zip(rows, streams, steps, strict=True)
    ]


def search_texts(
    gpt: Model, tokenizer: TextCodec, prompt: str, beam: Beam, limits: Limits, num_samples: int
) -> list[Sampled]:
    """Return the `num_samples` best texts that beam search finds for a prompt."""
    why = f"beam search with {beam.beams} beams finds no more"
    require(num_samples <= beam.beams, "num_samples", num_samples, why, "raise decoder.beams")
    return [
        Sampled(prompt, tokenizer.decode(found.ids), found.ids, found.logprob, score=found.score)
        for found in beam_search(gpt, tokenizer.encode(prompt), beam, limits)[:num_samples]
    ]


def with_ids(processors: LogitsProcessors, tokenizer: TextCodec) -> LogitsProcessors:
    """Return the processors with banned texts as their token ids; refuses texts that are not one token."""
    banned = []
    for given in processors.banned:
        ids = [given] if isinstance(given, int) else tokenizer.encode(str(given))
        why = f"is {len(ids)} tokens" if len(ids) != 1 else f"is not one of the {tokenizer.n_vocab} ids"
        fits = len(ids) == 1 and 0 <= ids[0] < tokenizer.n_vocab
        require(fits, "logits_processors.banned", given, why, "give ids, or texts that are one token each")
        banned += ids
    return replace(processors, banned=banned)
