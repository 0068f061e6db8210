"""Turn a request into what is asked of the engine: prompts as ids, a decoder, and where a text ends."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptlab.app.api.errors import ApiError
from gptlab.app.api.fields import Fields, whole
from gptlab.data.text.conversations import messages_of
from gptlab.decoding.decoders import Chain, Decoder, Greedy, MinP, Sample, TopK, TopP
from gptlab.decoding.engine import Engine
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.errors import UserError
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import ChatTemplate

MOST_TEXTS, MOST_ANSWERS, MOST_LOGPROBS = 2048, 128, 20  # of a request, to a prompt, at a token
USUAL_TOKENS = 16  # new ones of a completion, as with OpenAI
TINY = 1e-12  # top_p=0 keeps the most probable token
SEEDS = 2**63
# fields of a chat that are not supported, and the values that ask for nothing
NO_TOOLS: dict[str, list[Any]] = {
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}],
}


@dataclass
class Served:
    """A model that is served under a name, and the engine that it writes in."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None  # for chat
    block_size: int
    engine: Engine
    created: int = 0  # seconds since 1970
    reading: threading.Lock = field(default_factory=threading.Lock)  # held by whoever encodes: tokenizers have states


@dataclass
class Prompt:
    """A prompt: its text, and the ids that the model reads, of which the first `before` are not of the text."""

    text: str
    ids: list[int]
    before: int = 0


@dataclass
class Asked:
    """The texts that a request asks for."""

    prompts: list[Prompt]
    max_tokens: int
    decoder: Decoder
    processors: LogitsProcessors
    n: int
    best_of: int
    stop: list[str]
    ends: Collection[int]
    logprobs: int | None  # the number of the most probable tokens that are shown; None: nothing is
    echo: bool
    seed: int
    stream: bool
    stream_usage: bool


def completion_of(body: Any, served: Served) -> Asked:
    """Read a request for completions; raises ApiError."""
    fields = _checked(body, served)
    prompts = _prompts(fields.take("prompt", ""), served.tokenizer)
    max_tokens = fields.integer("max_tokens", USUAL_TOKENS, 0, SEEDS - 1)
    logprobs = fields.integer("logprobs", None, 0, MOST_LOGPROBS)
    echo, best_of = fields.switch("echo"), fields.integer("best_of", None, 1, MOST_ANSWERS)
    fields.refuse("suffix", [""])
    return _asked(fields, served, "prompt", prompts, max_tokens, served.tokenizer.ends, logprobs, echo, best_of)


def chat_of(body: Any, served: Served) -> Asked:
    """Read a request for a chat's next message; raises ApiError."""
    fields = _checked(body, served)
    template = served.template
    if template is None:
        why = "This is not a chat model and thus not supported in the v1/chat/completions endpoint. "
        raise ApiError(404, f"{why}Did you mean to use v1/completions?", "model")
    prompt = _conversation(fields.take("messages"), template)
    most = [fields.integer(name, None, 1, SEEDS - 1) for name in ("max_completion_tokens", "max_tokens")]
    max_tokens = most[0] if most[1] is None else most[1]
    switch, top = fields.switch("logprobs"), fields.integer("top_logprobs", None, 0, MOST_LOGPROBS)
    if top is not None and not switch:
        raise ApiError(400, "top_logprobs goes with logprobs=true", "top_logprobs")
    for name, allowed in NO_TOOLS.items():
        fields.refuse(name, allowed)
    logprobs = (top or 0) if switch else None
    return _asked(fields, served, "messages", [prompt], max_tokens, template.ends, logprobs)


def _checked(body: Any, served: Served) -> Fields:
    """Return the fields of a request for the model that is served."""
    fields = Fields(body)
    model = fields.text("model")
    if model is None:
        raise ApiError(400, f"you must provide a model parameter: it is {served.name}", "model")
    require_model(model, served)
    fields.text("user")  # whoever it is
    return fields


def require_model(name: str, served: Served) -> None:
    """Raise ApiError unless a model is the one that is served."""
    if name != served.name:
        why = f"The model `{name[:200]}` does not exist; this server has {served.name}"
        raise ApiError(404, why, "model", "model_not_found")


def _asked(
    fields: Fields,
    served: Served,
    key: str,
    prompts: list[Prompt],
    max_tokens: int | None,
    ends: Collection[int],
    logprobs: int | None,
    echo: bool = False,
    best_of: int | None = None,
) -> Asked:
    """Read the fields that both kinds of requests have; `key` is the field of the prompts."""
    n = fields.integer("n", 1, 1, MOST_ANSWERS) or 1
    stream = fields.switch("stream")
    if best_of is not None and best_of < n:
        raise ApiError(400, f"best_of={best_of} is less than n={n}", "best_of")
    if stream and best_of is not None and best_of > n:
        raise ApiError(400, "best_of above n cannot be streamed: the best is known at the end", "best_of")
    options = Fields(fields.take("stream_options", {}) or {})
    stream_usage = options.switch("include_usage")
    options.refuse("include_obfuscation", [False])
    options.finish()
    fields.refuse("logit_bias", [{}])
    seed = fields.integer("seed", None, -SEEDS, SEEDS - 1)
    asked = Asked(
        prompts,
        served.block_size if max_tokens is None else max_tokens,
        _decoder(fields),
        LogitsProcessors(
            presence=fields.number("presence_penalty", 0, -2, 2),
            frequency=fields.number("frequency_penalty", 0, -2, 2),
            repetition=fields.number("repetition_penalty", 1, 0.01, 100),
        ),
        n,
        best_of or n,
        fields.stops(),
        ends,
        logprobs,
        echo,
        secrets.randbits(63) if seed is None else seed % (2 * SEEDS),
        stream,
        stream_usage,
    )
    fields.finish()
    if len(prompts) * asked.best_of > MOST_TEXTS:
        why = f"{len(prompts)} prompts with {asked.best_of} answers each are more than {MOST_TEXTS} texts"
        raise ApiError(400, why, key)
    for prompt in prompts:
        if len(prompt.ids) + min(asked.max_tokens, 1) > served.block_size:
            why = f"This model's maximum context length is {served.block_size} tokens, and the prompt has "
            raise ApiError(400, f"{why}{len(prompt.ids)}; shorten it", key, "context_length_exceeded")
    return asked


def _decoder(fields: Fields) -> Decoder:
    """Return the decoder of temperature, top_k, top_p and min_p, in this order; top_k of 0 or -1 is off."""
    temperature, p = fields.number("temperature", 1, 0, 2), fields.number("top_p", 1, 0, 1)
    k, min_p = fields.integer("top_k", -1, -1, SEEDS - 1) or 0, fields.number("min_p", 0, 0, 1)
    if temperature == 0:
        return Greedy()
    chosen: list[Decoder] = [TopK(temperature, k)] if k > 0 else []
    chosen += [TopP(temperature, max(p, TINY))] if p < 1 else []
    chosen += [MinP(temperature, min_p)] if min_p > 0 else []
    return Chain(chosen) if len(chosen) > 1 else [*chosen, Sample(temperature)][0]


def _prompts(given: Any, tokenizer: Tokenizer) -> list[Prompt]:
    """Return the prompts of a text, of ids, or of a list of either."""
    if isinstance(given, str) or (isinstance(given, list) and given and type(given[0]) is int):
        given = [given]
    if not isinstance(given, list) or not given:
        raise ApiError(400, "prompt must be a string, a list of token ids, or a list of either", "prompt")
    return [_of_ids(each, tokenizer) if isinstance(each, list) else _of_text(each, tokenizer) for each in given]


def _of_text(given: Any, tokenizer: Tokenizer) -> Prompt:
    """Return a prompt of a text; an empty one begins a document."""
    text = whole(given, "prompt")
    start = tokenizer.start or ([] if text else [tokenizer.eot])
    return Prompt(text, [*start, *tokenizer.encode(text)], len(start))


def _of_ids(ids: Sequence[Any], tokenizer: Tokenizer) -> Prompt:
    """Return a prompt of ids, which are read as they are."""
    if not ids:
        raise ApiError(400, "prompt has an empty list of token ids", "prompt")
    wrong = next((i for i in ids if type(i) is not int or not 0 <= i < tokenizer.n_vocab), None)
    if wrong is not None:
        raise ApiError(400, f"prompt has {str(wrong)[:40]}, which is not one of the {tokenizer.n_vocab} ids", "prompt")
    return Prompt(tokenizer.decode(ids), list(ids))


def _conversation(given: Any, template: ChatTemplate) -> Prompt:
    """Return the prompt of messages; the draws depend on the text of the last one."""

    def mistake(why: str, todo: str) -> UserError:
        return UserError("messages", "?", why, todo)

    try:
        messages = messages_of([_plain(each) for each in given] if isinstance(given, list) else given, "them", mistake)
        return Prompt(messages[-1]["content"], template.prompt(messages))
    except UserError as error:
        raise ApiError(400, f"the field messages {error.why}; {error.todo}", "messages") from error


def _plain(message: Any) -> Any:
    """Return a message whose content is one text; parts of text are joined, and a developer speaks as the system."""
    if not isinstance(message, dict):
        return message
    content, role = message.get("content"), message.get("role")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ApiError(400, "messages have parts that are no text", "messages")
        content = "".join(whole(part.get("text"), "messages") for part in content)
    return {**message, "content": content, "role": "system" if role == "developer" else role}
