"""The autoregressive loop: predict, draw, append (Jurafsky & Martin sec. 10.2), for a batch of prompts at once."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptlab.decoding.decoders import Beam, Decoder
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.errors import require

Model = Any  # a GPT: ids (B, T) in, logits (B, T, V) out, of what follows if it has a cache from new_cache()


class Step(NamedTuple):
    """One new token of one row."""

    row: int
    token: int
    logprob: float  # under the model itself, in nats
    logits: Tensor  # (V,) as the model gave them
    changed: Tensor  # (V,) as controls left them
    probs: Tensor  # (V,) what it was drawn from


@dataclass
class Limits:
    """When a text ends, and what happens when it outgrows the context."""

    max_new_tokens: int
    block_size: int  # the context: the model sees the last so many ids
    eot: int | None = None  # ends a text, and is not part of it
    n_vocab: int | None = None  # how many ids the tokenizer has, where the model's vocabulary is padded beyond
    overflow: str = "crop"  # crop: forget the oldest ids | refuse


@torch.no_grad()
def generate(
    gpt: Model,
    prompts: Sequence[Sequence[int]],
    decoder: Decoder,
    limits: Limits,
    keys: Sequence[tuple[int, ...]],
    controls: LogitsProcessors | None = None,
    ended: Callable[[int, int], bool] = lambda row, token: False,
) -> Iterator[Step]:
    """New tokens as they come, row by row, until every row is at its end.

    A row ends with limits.eot, with `max_new_tokens`, or when `ended(row, token)` says so of a token it was handed. Its
    draws depend on its key, e.g. (seed, prompt number, sample number), and the step: what else is in the batch, and
    what ran before, changes nothing. `gpt` keeps its mode: call `gpt.eval()` first.
    """
    for prompt in prompts:
        require(len(prompt) > 0, "prompt", "", "is empty", 'give some text, e.g. prompt="Once upon"')
        fits = limits.overflow == "crop" or len(prompt) + limits.max_new_tokens - 1 <= limits.block_size
        why = f"and {limits.max_new_tokens} new ones do not fit into the context of {limits.block_size}"
        require(fits, "prompt", f"{len(prompt)} tokens", why, "shorten it, or overflow=crop")
    controls = controls or LogitsProcessors()
    texts: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    reader = Reader(gpt, limits)
    for step in range(limits.max_new_tokens):
        logits = reader.read([[*prompts[row], *texts[row]] for row in running])
        finite, why = bool(logits.isfinite().all()), "has diverged: its logits are not finite"
        require(finite, "run", "its model", why, "take an earlier checkpoint")
        changed = controls(logits, [prompts[row] for row in running], [texts[row] for row in running])
        probs = decoder(changed)
        tokens = draw(probs, [(*keys[row], step) for row in running])
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist()
        still = []
        for i, (row, token) in enumerate(zip(running, tokens.tolist(), strict=True)):
            if token == limits.eot:
                continue
            texts[row].append(token)
            yield Step(row, token, logprobs[i], logits[i], changed[i], probs[i])
            if not ended(row, token):
                still.append(row)
        if not still:
            return
        reader.keep([running.index(row) for row in still])
        running = still


def continue_ids(
    gpt: Model, prompt: Sequence[int], decoder: Decoder | Beam, limits: Limits, key: tuple[int, ...]
) -> list[int]:
    """The new ids of one prompt, by any decoder."""
    if isinstance(decoder, Beam):
        return beam_search(gpt, prompt, decoder, limits)[0].ids
    return [step.token for step in generate(gpt, [prompt], decoder, limits, [key])]


class Reader:
    """Reads texts that grow by a token at a time, each token once as long as they fit into the context."""

    def __init__(self, gpt: Model, limits: Limits) -> None:
        self.gpt, self.limits = gpt, limits
        self.device = next(gpt.parameters()).device
        self.cache: Any = None

    def read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) of what follows each text."""
        block_size = self.limits.block_size
        longest = max(map(len, texts))
        if longest > block_size:  # every token moves to another position: all is read anew
            logits = self._read_all([text[-block_size:] for text in texts], block_size)
            self.cache = None
        elif self.cache is None:
            logits = self._read_all(texts, min(block_size, longest + self.limits.max_new_tokens))
        else:
            last = torch.tensor([[text[-1]] for text in texts], device=self.device)
            logits = self.gpt(last, cache=self.cache)
        return logits[:, -1, : self.limits.n_vocab].float()

    def _read_all(self, texts: Sequence[Sequence[int]], size: int) -> Tensor:
        """Texts of unequal length, padded on the left."""
        longest = max(map(len, texts))
        gaps = [longest - len(text) for text in texts]
        idx = torch.tensor([[0] * gap + list(text) for gap, text in zip(gaps, texts, strict=True)], device=self.device)
        padding = torch.tensor(gaps, device=self.device) if any(gaps) else None
        self.cache = self.gpt.new_cache(len(texts), size, padding)
        return self.gpt(idx, cache=self.cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows, in this order."""
        if self.cache is not None and list(rows) != list(range(self.cache.batch)):
            self.cache.select(torch.tensor(rows, device=self.device))


def draw(probs: Tensor, keys: Sequence[tuple[int, ...]]) -> Tensor:
    """One token (B,) from each row of probs (B, V), by a uniform number that its key decides."""
    digests = [hashlib.blake2b(repr(key).encode(), digest_size=8).digest() for key in keys]
    uniform = [(int.from_bytes(digest, "big") >> 11) / 2**53 for digest in digests]  # in [0, 1)
    mass = probs.double().cumsum(-1)
    end = mass[:, -1:]
    at = torch.tensor(uniform, dtype=torch.float64, device=probs.device)[:, None] * end
    at = torch.minimum(at, torch.nextafter(end, torch.zeros_like(end)))  # rounding must not lead beyond the last token
    return torch.searchsorted(mass, at, right=True)[:, 0]


@torch.no_grad()
def loglikelihood(
    gpt: Model, context: Sequence[int], continuation: Sequence[int], block_size: int
) -> tuple[float, bool]:
    """(log-probability of the continuation in nats, whether greedy decoding would write it).

    Where both do not fit into block_size + 1, the beginning of the context is dropped.
    """
    require(len(context) > 0, "context", "", "is empty", "give at least the separator")
    require(len(continuation) > 0, "continuation", "", "is empty", "give some text")
    fits = len(continuation) <= block_size
    todo = "shorten it"
    require(fits, "continuation", f"{len(continuation)} tokens", f"is longer than the context of {block_size}", todo)
    ids = torch.tensor([*context, *continuation], device=next(gpt.parameters()).device)[-block_size - 1 :]
    logits = gpt(ids[None, :-1])[0, -len(continuation) :].float()
    target = ids[-len(continuation) :]
    logprob = logits.log_softmax(-1).gather(-1, target[:, None]).sum()
    return float(logprob), bool((logits.argmax(-1) == target).all())


@dataclass(order=True)
class Hypothesis:
    """A text that beam search has found; the better, the greater."""

    score: float  # log-probability / length ** length_penalty
    ids: list[int] = field(compare=False)
    logprob: float = field(compare=False)


@torch.no_grad()
def beam_search(gpt: Model, prompt: Sequence[int], decoder: Beam, limits: Limits) -> list[Hypothesis]:
    """The best texts found, best first: those that ended with limits.eot, and those of full length.

    The `beams` most probable unfinished texts are continued at each step; ties go to the earlier beam and token id.
    """
    require(len(prompt) > 0, "prompt", "", "is empty", 'give some text, e.g. prompt="Once upon"')
    reader, width = Reader(gpt, limits), decoder.beams
    texts: list[list[int]] = [[]]
    scores = torch.zeros(1, dtype=torch.float64)
    ended: list[Hypothesis] = []

    def hypothesis(ids: list[int], logprob: float, length: int) -> Hypothesis:
        return Hypothesis(logprob / length**decoder.length_penalty, ids, logprob)

    for _ in range(limits.max_new_tokens):
        logprobs = reader.read([[*prompt, *text] for text in texts]).double().log_softmax(-1).cpu()
        total = scores[:, None] + logprobs  # (beams, V)
        if limits.eot is not None:
            for text, score in zip(texts, total[:, limits.eot].tolist(), strict=True):
                ended.append(hypothesis(text, score, len(text) + 1))
            total[:, limits.eot] = -torch.inf
        n_vocab, flat = total.shape[1], total.flatten()
        best = flat.argsort(descending=True, stable=True)[: min(width, int((flat > -torch.inf).sum()))]
        if not len(best):
            return sorted(ended, reverse=True)[:width]
        rows, tokens = (best // n_vocab).tolist(), (best % n_vocab).tolist()
        texts = [[*texts[row], token] for row, token in zip(rows, tokens, strict=True)]
        scores = flat[best]
        reader.keep(rows)
    ended += [hypothesis(text, score, len(text)) for text, score in zip(texts, scores.tolist(), strict=True)]
    return sorted(ended, reverse=True)[:width]
