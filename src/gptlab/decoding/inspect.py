"""Record the alternatives that a decoder had at each token."""

from typing import Any

import torch
from torch import Tensor

from gptlab.decoding.decoders import Decoder, Sample
from gptlab.decoding.generate import Step


def inspect(step: Step, decoder: Decoder, how_many: int = 8) -> dict[str, Any]:
    """Return a step as plain numbers: the chosen token and the most probable ones.

    Each has its probability under the model (raw), after logits processors and temperature (tempered), and in the
    distribution that was drawn from (final).
    """
    raw = step.logits.softmax(-1)
    tempered = Sample(getattr(decoder, "temperature", 1.0))(step.processed[None])[0]
    return {
        "token": step.token,
        "logprob": step.logprob,
        "rank": rank(raw, step.token),
        "entropy": entropy(raw),
        "kept": int((step.probs > 0).sum()),
        "alternatives": alternatives(raw, tempered, step.probs, step.token, how_many),
    }


def alternatives(
    raw: Tensor, tempered: Tensor, final: Tensor, chosen: int | None, how_many: int
) -> list[dict[str, float]]:
    """Return the `how_many` tokens that are the most probable by `raw`, and the chosen one, with their probabilities.

    All three distributions are (V,).
    """
    top = raw.argsort(descending=True, stable=True)[:how_many].tolist()
    shown = top if chosen is None or chosen in top else [*top, chosen]
    return [{"token": i, "raw": raw[i].item(), "tempered": tempered[i].item(), "final": final[i].item()} for i in shown]


def rank(probs: Tensor, token: int) -> int:
    """Return the rank of a token in probs (V,), 1 for the most probable one; ties go by id."""
    ids = torch.arange(len(probs), device=probs.device)
    ahead = (probs > probs[token]) | ((probs == probs[token]) & (ids < token))
    return int(ahead.sum()) + 1


def entropy(probs: Tensor) -> float:
    """Return the entropy of a distribution (V,), in nats."""
    return torch.special.entr(probs.double()).sum().item()
