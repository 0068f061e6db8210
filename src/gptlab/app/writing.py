"""Write texts piece by piece, and look into them: what pages of the playground show, as plain values."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gptlab.app.asked import Looking, Writing
from gptlab.app.served import Served
from gptlab.decoding.beam import beam_steps
from gptlab.decoding.context import Context, Limits
from gptlab.decoding.decoders import Beam, Sample
from gptlab.decoding.generate import Key, draw_key, generate
from gptlab.decoding.inspect import alternatives, entropy, rank
from gptlab.decoding.streaming import TextStream
from gptlab.errors import require
from gptlab.evaluation.chat import first_messages, fitting
from gptlab.evaluation.surprise import surprises
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import ChatCodec

BARS = 10  # the most probable tokens that are shown


@dataclass(frozen=True)
class Begun:
    """A text that can be written: its first ids, those of them that are decoded, and how it goes on."""

    ids: list[int]
    spelled: list[int]  # without bos, as the text of what follows depends on them
    key: Key
    limits: Limits
    forgotten: int = 0  # messages that the context has no room for
    unspelled: int = 0  # characters of the prompt that are not in the vocabulary


def begin(model: Served, asked: Writing) -> Begun:
    """Return how a text begins; raises UserError for a prompt that is too long, or a chat without a template."""
    tokenizer, block_size = model.tokenizer, model.block_size
    unspelled = tokenizer.unspelled(asked.prompt, tokenizer.encode_array(asked.prompt))
    if asked.chat:
        template, todo = model.template, "continue a prompt instead"
        require(template is not None, "chat", "true", f"{model.name} has no chat template", todo)
        assert template is not None
        roles = ["user", "assistant"] * len(asked.said)
        said = [{"role": role, "content": text} for role, text in zip(roles, asked.said, strict=False)]
        first = list(first_messages(asked.system))
        kept, forgotten = fitting(template, first, said, asked.prompt, block_size - asked.max_new_tokens)
        spelled, start, ends = ChatCodec(template, [*first, *kept]).encode(asked.prompt), [], template.ends
    else:
        spelled, start, ends, forgotten = tokenizer.encode(asked.prompt), tokenizer.start, tokenizer.ends, 0
    ids = [*start, *spelled]
    why = f"do not fit into the context of {block_size}"
    require(len(ids) <= block_size, "prompt", f"{len(ids)} tokens", why, "shorten it")
    require(bool(ids), "prompt", ascii(asked.prompt), "has no tokens", "give some text")
    limits = Limits(asked.max_new_tokens, block_size, ends, tokenizer.n_vocab)
    key = draw_key(asked.seed, asked.prompt, len(asked.said) // 2)  # those of `sample` and of `chat`
    return Begun(ids, spelled, key, limits, forgotten, unspelled)


def written(model: Served, asked: Writing, begun: Begun) -> Iterator[dict[str, Any]]:
    """Yield what is given, then each new token as soon as it is drawn, and at last the end.

    A token has its id, its text, which is empty where a character is not whole yet, and its surprise in nats under the
    model, which is None for the first one of all.
    """
    pieces, costs = spelled_out(model.tokenizer, begun.ids), _costs(model, begun.ids)
    given = [_token(*each) for each in zip(begun.ids, pieces, costs, strict=True)]
    yield {"given": given, "forgotten": begun.forgotten, "unspelled": begun.unspelled}
    stream = TextStream(model.tokenizer.decode, (), begun.spelled)
    if isinstance(asked.built, Beam):
        yield from _searched(model, asked.built, begun, stream)
    else:
        for step in generate(model.gpt, [begun.ids], asked.built, begun.limits, [begun.key]):
            yield {"token": _token(step.token, stream.add(step.token), -step.logprob)}
    whole = len(stream.ids) == begun.limits.max_new_tokens
    yield {"rest": stream.end(), "end": "max_new_tokens" if whole else "the model ended it"}


def _searched(model: Served, beam: Beam, begun: Begun, stream: TextStream) -> Iterator[dict[str, Any]]:
    """Yield the steps of a search, and then the tokens of the best text."""
    best: list[int] = []
    for number, found in enumerate(beam_steps(model.gpt, begun.ids, beam, begun.limits), start=1):
        best = found[0].ids
        yield {"searched": number}
    costs = _costs(model, [*begun.ids, *best])[len(begun.ids) :]
    for token, nats in zip(best, costs, strict=True):
        yield {"token": _token(token, stream.add(token), nats)}


def _token(token: int, text: str, nats: float | None) -> dict[str, Any]:
    return {"id": token, "text": text, "nats": None if nats is None else round(nats, 4)}


def _costs(model: Served, ids: Sequence[int]) -> list[float | None]:
    """Return the surprise of each id in nats; the first one follows nothing."""
    n_vocab = model.tokenizer.n_vocab
    found = surprises(model.gpt, np.array(ids), model.block_size, 1, n_vocab) if len(ids) > 1 else []
    return [None, *(each.nats for each in found)]


def spelled_out(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text of each id; a character of several is in the last of them. Special tokens have their names."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    return [
        names[token] if token in names else decoder.decode(tokenizer.decode_part([token], begins=at == 0))
        for at, token in enumerate(ids)
    ]


@torch.no_grad()
def looked_at(model: Served, asked: Looking) -> dict[str, Any]:
    """Return what was likely in the place of a token, and its attention, each None where there is none."""
    most, n_vocab = model.block_size, model.tokenizer.n_vocab
    known = all(0 <= token < n_vocab for token in asked.ids)
    require(known, "ids", "given", f"are not all in 0 to {n_vocab - 1}", "send those of the text")
    before = asked.ids[max(0, asked.at - most) : asked.at]
    return {"next": _likely(model, asked, before) if before else None, "attention": _attention(model, asked)}


def _likely(model: Served, asked: Looking, before: Sequence[int]) -> dict[str, Any]:
    """Return a token's figures, and the most probable ones in its place: under the model, and as they are drawn."""
    tokenizer, decoder = model.tokenizer, asked.built
    logits = Context(model.gpt, Limits(1, model.block_size, (), tokenizer.n_vocab)).read([before])
    raw = logits.softmax(-1)[0]
    searched = isinstance(decoder, Beam)  # nothing is drawn
    final = raw if isinstance(decoder, Beam) else decoder(logits)[0]
    tempered = Sample(getattr(decoder, "temperature", 1.0))(logits)[0]
    token = asked.ids[asked.at] if asked.at < len(asked.ids) else None
    bars = alternatives(raw, tempered, final, token, BARS)
    logprobs = logits.log_softmax(-1)[0].tolist()
    figures = {} if token is None else {"rank": rank(raw, token), "nats": round(-logprobs[token], 4)}
    return {
        **figures,
        "entropy": round(entropy(raw), 4),
        "kept": int((final > 0).sum()),
        "of": len(raw),
        "searched": searched,
        "alternatives": [{**bar, "text": tokenizer.spell(int(bar["token"]))} for bar in bars],
    }


def _attention(model: Served, asked: Looking) -> dict[str, Any] | None:
    """Return where a token looks, and what looks at it: of a layer and a head, or of the mean over them."""
    from gptlab.model.attention_weights import attention_at

    if asked.at == len(asked.ids):
        return None
    first = max(0, asked.at + 1 - model.block_size)  # what the model sees with the token
    ids = asked.ids[first : first + model.block_size]
    found = attention_at(model.gpt, ids, asked.at - first)
    if found is None:
        return None
    sizes = {"layer": found.shape[1], "head": found.shape[2]}
    for key, size in sizes.items():
        value = getattr(asked, key)
        require(value is None or 0 <= value < size, key, value, f"is not in 0 to {size - 1}", "leave it out")
    found = found.mean(1) if asked.layer is None else found[:, asked.layer]  # (2, H, T)
    found = found.mean(1) if asked.head is None else found[:, asked.head]  # (2, T)
    to, by = ([round(weight, 4) for weight in row.tolist()] for row in found)
    return {"layers": sizes["layer"], "heads": sizes["head"], "first": first, "to": to, "by": by}
