"""Search for the most probable texts by following a few at once: beam search."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from gptlab.decoding.context import Context, Limits, Model
from gptlab.decoding.decoders import Beam
from gptlab.errors import require


@dataclass(order=True)
class Hypothesis:
    """A text found by beam search; a better one compares as greater."""

    score: float  # log-probability / length ** length_penalty
    ids: list[int] = field(compare=False)
    logprob: float = field(compare=False)


def beam_search(gpt: Model, prompt: Sequence[int], decoder: Beam, limits: Limits) -> list[Hypothesis]:
    """Return the best texts found, best first: those that ended with one of limits.ends, and those of full length."""
    *_, found = beam_steps(gpt, prompt, decoder, limits)
    return found


@torch.no_grad()
def beam_steps(gpt: Model, prompt: Sequence[int], decoder: Beam, limits: Limits) -> Iterator[list[Hypothesis]]:
    """Yield after each step the best texts so far, best first: ended ones, and all that the search goes on with.

    The `beams` most probable unfinished texts are continued at each step; ties go to the earlier beam and token id.
    """
    require(len(prompt) > 0, "prompt", "", "is empty", 'give some text, e.g. prompt="Once upon"')
    context, width = Context(gpt, limits), decoder.beams
    texts: list[list[int]] = [[]]
    scores = torch.zeros(1, dtype=torch.float64)
    ended: list[Hypothesis] = []

    def hypothesis(ids: list[int], logprob: float, length: int) -> Hypothesis:
        return Hypothesis(logprob / length**decoder.length_penalty, ids, logprob)

    for _ in range(limits.max_new_tokens):
        logprobs = context.read([[*prompt, *text] for text in texts]).double().log_softmax(-1).cpu()
        total = scores[:, None] + logprobs  # (beams, V)
        for end in limits.ends:
            for text, score in zip(texts, total[:, end].tolist(), strict=True):
                ended.append(hypothesis(text, score, len(text) + 1))
            total[:, end] = -torch.inf
        n_vocab, flat = total.shape[1], total.flatten()
        best = flat.argsort(descending=True, stable=True)[: min(width, int((flat > -torch.inf).sum()))]
        if not len(best):
            yield sorted(ended, reverse=True)[:width]
            return
        rows, tokens = (best // n_vocab).tolist(), (best % n_vocab).tolist()
        texts = [[*texts[row], token] for row, token in zip(rows, tokens, strict=True)]
        scores = flat[best]
        context.keep(rows)
        unfinished = [hypothesis(text, score, len(text)) for text, score in zip(texts, scores.tolist(), strict=True)]
        yield sorted([*ended, *unfinished], reverse=True)[:width]
