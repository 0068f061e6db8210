"""Estimate how far a model has moved from a reference, by answers that the reference has drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gptlab.data.batches.answers import AnswerBatch
from gptlab.data.batches.chat import conversations, one_a_row
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Sample
from gptlab.decoding.generate import draw_key, generate
from gptlab.tasks.base import Figures, Reading, Sums
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tasks.cross_entropy import target_losses
from gptlab.tokenizers.chat_templates import ChatTemplate, Message

ANSWERS = 64  # that are drawn,
LONGEST = 64  # of at most so many tokens,
AT_ONCE = 16  # so many at a time


@dataclass
class Divergence(CausalLM):
    """The divergence KL(reference || model) of an answer, in nats; nothing is learned from it.

    A token that the reference has drawn, r times as likely under the model, contributes (r - 1) - ln r: never below
    zero, and on average the divergence of the next token (Schulman 2020, "Approximating KL divergence", k3).
    """

    def losses(self, gpt: Any, x: Tensor, y: Tensor, nats: Tensor, reading: Reading) -> Figures:  # type: ignore[override]
        """Compute the divergence at each token of answers (B, T) whose costs under the reference are `nats`, (B, T)."""
        now = target_losses(gpt, x, y, reading.chunked)
        log_ratio = nats - now
        return {"loss": log_ratio.expm1() - log_ratio, "nats": now}

    def measure(self, figures: Figures, batch: Any) -> Sums:
        """Sum nats, and count answers."""
        return {"nats": figures["loss"].sum(), "targets": (batch.y >= 0).any(1).sum()}

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the mean over the answers."""
        return {"kl": float(sums["nats"]) / float(sums["targets"])} if sums["targets"] else {}

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        """Return no curves: positions mean nothing where prompts have any length."""
        return {}


def draw_answers(
    gpt: Any,
    figures: Callable[..., Figures],
    prompts: Sequence[Sequence[Message]],
    template: ChatTemplate,
    seed: int,
) -> AnswerBatch:
    """Draw an answer to each of the first prompts from a model's own distribution, with what each token costs it.

    `figures` are those of `Divergence` by the model. Prompts that leave no room for an answer in the context are passed
    over.
    """
    size, ends = gpt.config.block_size, template.ends
    asked = [ids for ids in map(template.prompt, prompts) if len(ids) <= size][:ANSWERS]
    rows = [list(ids) for ids in asked]
    for first in range(0, len(rows), AT_ONCE):
        some = asked[first : first + AT_ONCE]
        limits = Limits(LONGEST, size, (), template.tokenizer.n_vocab)
        keys = [draw_key(seed, "reference", first + i) for i in range(len(some))]
        full = lambda row, token: token in ends or len(rows[first + row]) > size  # noqa: E731, B023
        for step in generate(gpt, some, Sample(), limits, keys, ended=full):
            rows[first + step.row].append(step.token)
    encoded = [(row, [i >= len(ids) for i in range(len(row))]) for row, ids in zip(rows, asked, strict=True)]
    found = conversations(encoded, size, "cut", keep_all=True)
    batch = one_a_row(found, size).__getitems__(range(len(found)))
    device = next(gpt.parameters()).device
    nats = torch.zeros(batch.x.shape)
    with torch.no_grad():
        for some in torch.arange(len(nats)).split(AT_ONCE):  # type: ignore[no-untyped-call]
            nats[some] = figures(*(each[some].to(device) for each in (batch.x, batch.y, nats)))["nats"].float().cpu()
    return AnswerBatch(batch.x, batch.y, nats)
