"""OpenAI's API by its own client: what it answers is what the model writes alone."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import torch

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Chain, Decoder, Greedy, MinP, Sample, TopK, TopP
from gptlab.decoding.generate import draw_key
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.texts import continue_prompts
from gptlab.tokenizers.base import Declared
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.chat_templates import ChatCodec, chat_template
from gptlab.tokenizers.hf import JSONTokenizer
from tests.app.serving import LETTERS, Repeating, T, gpt, letters, served
from tests.tokenizers.directories import metaspace
from tests.waiting import wait_until

GREEDY = {"temperature": 0}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(gpt(letters()), letters()) as address:
        yield address


def client_of(address: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return client_of(address)


def complete(client: openai.OpenAI, prompt: Any, **more: Any) -> Any:
    return client.completions.create(model="tiny", prompt=prompt, **more)


def alone(prompt: str, n: int, decoder: Decoder, seed: int = 0, sample: int = 0, **more: Any) -> str:
    """What `gptlab sample` draws."""
    tokenizer = letters()
    limits, key = Limits(n, T, tokenizer.ends, tokenizer.n_vocab), draw_key(seed, prompt, sample)
    return continue_prompts(gpt(tokenizer), tokenizer, [prompt], [key], decoder, limits, **more)[0].text


def test_a_completion_as_the_client_has_it(client: openai.OpenAI) -> None:
    found = complete(client, "the cat", max_tokens=9, seed=5)
    (choice,) = found.choices
    assert choice.text == alone("the cat", 9, Sample(), 5)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert (found.object, found.model, found.id[:5]) == ("text_completion", "tiny", "cmpl-")
    usage = found.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 9, 16)
    assert len(complete(client, "a").choices[0].text) == 16, "as with OpenAI"
    without = [complete(client, "the cat", max_tokens=9).choices[0].text for _ in range(4)]
    assert len(set(without)) == 4, "without a seed each request draws anew"


def test_all_ways_to_give_prompts(client: openai.OpenAI) -> None:
    tokenizer, texts = letters(), ["the cat", "a", "on."]
    ids = [tokenizer.encode(text) for text in texts]
    expected = [alone(text, 6, Sample(), 3) for text in texts]
    for given in (texts, ids):
        found = complete(client, given, max_tokens=6, seed=3)
        assert [(each.index, each.text) for each in found.choices] == list(enumerate(expected))
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (11, 18)
    for one in (texts[0], ids[0], [texts[0]], [ids[0]]):
        assert [each.text for each in complete(client, one, max_tokens=6, seed=3).choices] == expected[:1]
    begun = complete(client, "", max_tokens=6, logprobs=0, echo=True, **GREEDY)
    ids = [tokenizer.eot]
    for _ in range(6):
        ids.append(int(gpt(tokenizer)(torch.tensor([ids]))[0, -1, : tokenizer.n_vocab].argmax()))
    assert begun.choices[0].text == tokenizer.decode(ids[1:]) and begun.usage.prompt_tokens == 1
    assert None not in begun.choices[0].logprobs.token_logprobs


@pytest.mark.parametrize(
    ("fields", "decoder"),
    [
        ({}, Sample()),
        (GREEDY, Greedy()),
        ({"temperature": 0.5}, Sample(0.5)),
        ({"top_p": 0.6}, TopP(p=0.6)),
        ({"top_p": 0}, Greedy()),
        ({"extra_body": {"top_k": 3}}, TopK(k=3)),
        ({"extra_body": {"top_k": 0}}, Sample()),
        ({"extra_body": {"min_p": 0.3}, "temperature": 1.5}, MinP(1.5, 0.3)),
        ({"extra_body": {"top_k": 5, "min_p": 0.1}, "top_p": 0.7}, Chain([TopK(k=5), TopP(p=0.7), MinP(min_p=0.1)])),
    ],
    ids=str,
)
def test_each_way_to_draw(client: openai.OpenAI, fields: dict[str, Any], decoder: Decoder) -> None:
    found = complete(client, "the", max_tokens=30, seed=-1, n=2, **fields)
    assert [each.text for each in found.choices] == [alone("the", 30, decoder, 2**64 - 1, i) for i in range(2)]


def test_penalties(client: openai.OpenAI) -> None:
    plain = alone("aaaa", 30, Greedy())
    for field, processors in {
        "presence_penalty": LogitsProcessors(presence=1.5),
        "frequency_penalty": LogitsProcessors(frequency=1.5),
        "repetition_penalty": LogitsProcessors(repetition=1.5),
    }.items():
        expected = alone("aaaa", 30, Greedy(), processors=processors)
        found = complete(client, "aaaa", max_tokens=30, extra_body={field: 1.5}, **GREEDY)
        assert found.choices[0].text == expected != plain


def test_several_answers_and_the_best_of_more(client: openai.OpenAI) -> None:
    found = complete(client, ["the", "a"], n=3, max_tokens=8, seed=1)
    expected = [alone(text, 8, Sample(), 1, sample) for text in ("the", "a") for sample in range(3)]
    assert [each.text for each in found.choices] == expected and len(set(expected)) == 6
    every = complete(client, "the", n=6, max_tokens=8, seed=1, logprobs=0)
    ranked = sorted(every.choices, key=lambda each: -sum(each.logprobs.token_logprobs) / 8)
    best = complete(client, "the", n=2, best_of=6, max_tokens=8, seed=1)
    assert [(each.index, each.text) for each in best.choices] == [(i, each.text) for i, each in enumerate(ranked[:2])]
    assert best.usage.completion_tokens == 48


def test_stop_strings_over_several_tokens(client: openai.OpenAI) -> None:
    whole = alone("the cat", 50, Sample(), 2)
    middle, late = whole[20:23], whole[30:34]
    for stop, end in [(middle, 20), ([late, middle], 20), ([late], 30), (whole[0], 0)]:
        found = complete(client, "the cat", max_tokens=50, seed=2, stop=stop, logprobs=0)
        at = whole.find(stop) if isinstance(stop, str) else min(map(whole.find, stop))
        assert found.choices[0].text == whole[:at] and at <= end
        assert found.choices[0].finish_reason == "stop"
        assert "".join(found.choices[0].logprobs.tokens) == whole[:at]
        assert found.usage.completion_tokens == at + len(stop if isinstance(stop, str) else stop[-1])
    assert complete(client, "the cat", max_tokens=50, seed=2, stop="THE").choices[0].finish_reason == "length"


def test_the_token_that_ends_a_text() -> None:
    tokenizer = letters()
    with served(gpt(tokenizer, end=2.0), tokenizer) as address:
        found = complete(client_of(address), "the", n=8, max_tokens=60, seed=0, logprobs=1)
    ended = [each for each in found.choices if each.finish_reason == "stop"]
    assert ended and all(len(each.text) == len(each.logprobs.tokens) < 60 for each in ended)
    assert found.usage.completion_tokens == sum(len(each.text) for each in found.choices)


def test_log_probabilities_by_the_model_itself(client: openai.OpenAI) -> None:
    """Against log_softmax of one reading of the whole text, for prompt and answer."""
    tokenizer = letters()
    found = complete(client, "the cat", max_tokens=12, logprobs=4, echo=True, seed=9).choices[0]
    text, logprobs = found.text, found.logprobs
    assert text.startswith("the cat") and logprobs.tokens == list(text)
    assert logprobs.text_offset == list(range(len(text)))
    ids = tokenizer.encode(text)
    expected = gpt(tokenizer)(torch.tensor([ids]))[0, :, : tokenizer.n_vocab].double().log_softmax(-1)
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    for place in range(1, len(ids)):
        assert logprobs.token_logprobs[place] == pytest.approx(expected[place - 1, ids[place]].item(), abs=1e-5)
        best = {tokenizer.spell(i): expected[place - 1, i].item() for i in expected[place - 1].topk(4).indices.tolist()}
        best = {("<|endoftext|>" if token == "" else token): value for token, value in best.items()}
        best.setdefault(text[place], expected[place - 1, ids[place]].item())
        assert logprobs.top_logprobs[place] == pytest.approx(best, abs=1e-5)
    scored = complete(client, [tokenizer.encode("the cat")], max_tokens=0, logprobs=4, echo=True).choices[0]
    assert scored.text == "the cat" and scored.finish_reason == "length"
    assert scored.logprobs.token_logprobs[1:] == pytest.approx(logprobs.token_logprobs[1:7], abs=1e-5)
    own = complete(client, "the cat", max_tokens=12, logprobs=4, seed=9).choices[0]
    assert own.logprobs.token_logprobs == pytest.approx(logprobs.token_logprobs[7:], abs=1e-5)
    assert own.logprobs.text_offset == list(range(12)) and own.text == text[7:]


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"logprobs": 2}, {"logprobs": 0, "echo": True}], ids=str)
def test_streams_are_the_whole_in_pieces(client: openai.OpenAI, more: dict[str, Any]) -> None:
    ask = {"max_tokens": 40, "seed": 2, "n": 2, "stop": [alone("the cat", 50, Sample(), 2)[30:34]], **more}
    whole = complete(client, ["the cat", "on"], **ask)
    chunks = list(complete(client, ["the cat", "on"], stream=True, stream_options={"include_usage": True}, **ask))
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert {each.id for each in chunks} == {chunks[0].id} and len(chunks) > 100
    for choice in whole.choices:
        pieces = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert "".join(each.text for each in pieces) == choice.text
        assert [each.finish_reason for each in pieces] == [None] * (len(pieces) - 1) + [choice.finish_reason]
        if choice.logprobs:
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                joined = [value for each in pieces for value in getattr(each.logprobs, name)]
                if name == "token_logprobs":
                    close = pytest.approx([value or 0 for value in choice.logprobs.token_logprobs], abs=1e-5)
                    assert [value or 0 for value in joined] == close
                elif name != "top_logprobs":
                    assert joined == getattr(choice.logprobs, name)
            assert all(each.logprobs.text_offset[0] >= 0 for each in pieces if each.logprobs.text_offset)


def test_an_event_stream_by_its_lines(address: str) -> None:
    ask = {"model": "tiny", "prompt": "a", "max_tokens": 3, "seed": 1, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=ask) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert [json.loads(line[6:])["object"] for line in lines[:-1]] == ["text_completion"] * 4


def test_characters_of_several_tokens() -> None:
    """Bytes as tokens: no piece splits a character, and offsets count characters."""
    text = "né🙂."
    with served(Repeating(text), Byte().build([])) as address:
        client = client_of(address)
        found = complete(client, text, max_tokens=12, logprobs=1, echo=True, **GREEDY).choices[0]
        chunks = list(complete(client, text, max_tokens=12, logprobs=1, echo=True, stream=True, **GREEDY))
    assert found.text == "né🙂." + "né🙂." + "né\ufffd"
    tokens = ["n", "bytes:\\xc3", "bytes:\\xa9", "bytes:\\xf0", "bytes:\\x9f", "bytes:\\x99", "bytes:\\x82", "."]
    assert found.logprobs.tokens == (tokens * 3)[:20]
    assert found.logprobs.text_offset == [0, 1, 1, 2, 2, 2, 2, 3, 4, 5, 5, 6, 6, 6, 6, 7, 8, 9, 9, 10]
    assert "".join(each.choices[0].text for each in chunks) == found.text
    assert [token for each in chunks for token in each.choices[0].logprobs.tokens] == found.logprobs.tokens
    assert all("\ufffd" not in each.choices[0].text for each in chunks[:-1])


@pytest.mark.slow
def test_fifty_clients_lose_nothing(address: str) -> None:
    """At once, in streams or not, over a batch of eight: each has the text that it has alone."""

    prompts = [LETTERS[number % 26 :] + LETTERS[: number // 2 % 26] for number in range(50)]
    decoders: list[tuple[Decoder, dict[str, Any]]] = [
        (Greedy(), {"temperature": 0}),
        (Sample(), {}),
        (TopP(p=0.9), {"top_p": 0.9}),
    ]
    barrier = threading.Barrier(50)

    def ask(number: int) -> str:
        client, streams = client_of(address), number % 2 == 0
        more = decoders[number % 3][1]
        barrier.wait(60)
        found = complete(client, prompts[number], max_tokens=5 + number % 13, seed=number, stream=streams, **more)
        return "".join(each.choices[0].text for each in found) if streams else found.choices[0].text

    with ThreadPoolExecutor(50) as pool:
        texts = list(pool.map(ask, range(50)))
    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        n = min(5 + number % 13, T - len(prompt))
        assert text == alone(prompt, n, decoders[number % 3][0], number)
    assert httpx.get(f"{address}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(stream: bool) -> None:
    """One place: the next text is written although the one before would take thousands of steps."""
    tokenizer = letters()
    slow, waits = gpt(tokenizer), threading.Event()

    def wait(module: object, args: object) -> None:
        waits.wait(0.05)

    slow.register_forward_pre_hook(wait)
    with served(slow, tokenizer, max_batch=1) as address:
        ask = {"model": "tiny", "prompt": ["a"] * 50, "max_tokens": 60, "temperature": 0, "stream": stream}
        try:
            with httpx.stream("POST", f"{address}/v1/completions", json=ask, timeout=2 if stream else 0.5) as reply:
                lines = reply.iter_lines()  # its end closes the connection
                assert next(lines).startswith("data: ")
                assert httpx.get(f"{address}/health").json()["running"] == 1
        except httpx.ReadTimeout:
            assert not stream
        wait_until(lambda: httpx.get(f"{address}/health").json() == {"status": "ok", "running": 0, "waiting": 0})
        waits.set()
        assert complete(client_of(address), "the", max_tokens=3, **GREEDY).choices[0].text == alone("the", 3, Greedy())


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 2.5}, "temperature", "must be a number from 0 to 2, and is 2.5"),
    ({"temperature": "hot"}, "temperature", "'hot'"),
    ({"temperature": True}, "temperature", "True"),
    ({"temperature": math.nan}, "temperature", "nan"),
    ({"top_p": -0.1}, "top_p", "from 0 to 1"),
    ({"top_k": -2}, "top_k", "an integer from -1"),
    ({"top_k": 1.5}, "top_k", "1.5"),
    ({"min_p": 2}, "min_p", "from 0 to 1"),
    ({"n": 0}, "n", "from 1 to 128"),
    ({"n": 129}, "n", "from 1 to 128"),
    ({"n": 2, "best_of": 1}, "best_of", "less than n=2"),
    ({"best_of": 2, "stream": True}, "best_of", "cannot be streamed"),
    ({"prompt": ["a"] * 100, "n": 21}, "prompt", "more than 2048 texts"),
    ({"max_tokens": -1}, "max_tokens", "from 0"),
    ({"logprobs": 21}, "logprobs", "from 0 to 20"),
    ({"logprobs": True}, "logprobs", "True"),
    ({"stop": ""}, "stop", "empty string"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"stop": [3]}, "stop", "no text (int)"),
    ({"echo": "yes"}, "echo", "true or false"),
    ({"stream": 1}, "stream", "true or false"),
    ({"stream_options": {"x": 1}}, "x", "Unrecognized"),
    ({"seed": 2**63}, "seed", "an integer"),
    ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
    ({"frequency_penalty": -3}, "frequency_penalty", "from -2 to 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "from 0.01"),
    ({"suffix": "end"}, "suffix", "is not supported"),
    ({"logit_bias": {"3": 1}}, "logit_bias", "is not supported"),
    ({"prompt": []}, "prompt", "must be a string"),
    ({"prompt": {}}, "prompt", "must be a string"),
    ({"prompt": [[]]}, "prompt", "empty list"),
    ({"prompt": ["a", 3]}, "prompt", "no text (int)"),
    ({"prompt": [3, "a"]}, "prompt", "has a, which is not one of the"),
    ({"prompt": [10**9]}, "prompt", "1000000000, which is not one of the"),
    ({"prompt": [True]}, "prompt", "no text (bool)"),
    ({"prompt": "\ud83d"}, "prompt", "half a character"),
    ({"prompt": "a" * T}, "prompt", f"maximum context length is {T} tokens, and the prompt has {T}"),
    ({"prompt": ["a", "b" * (T + 1)], "max_tokens": 0}, "prompt", f"the prompt has {T + 1}"),
    ({"model": None}, "model", "you must provide a model parameter: it is tiny"),
    ({"model": 3}, "model", "no text (int)"),
    ({"user": 3}, "user", "no text (int)"),
    ({"prompts": "a"}, "prompts", "Unrecognized request argument supplied: prompts"),
]


@pytest.mark.parametrize(("fields", "param", "why"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_field_is_named(address: str, fields: dict[str, Any], param: str, why: str) -> None:
    body = json.dumps({"model": "tiny", "prompt": "a", **fields})
    reply = httpx.post(f"{address}/v1/completions", content=body, headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert why in error["message"]


def test_what_asks_for_nothing_is_accepted(client: openai.OpenAI) -> None:
    more = {"suffix": "", "logit_bias": {}, "user": "me", "stop": [], "logprobs": None, "top_k": -1}
    found = complete(client, "the", max_tokens=4, extra_body=more, **GREEDY)
    assert found.choices[0].text == alone("the", 4, Greedy())


@pytest.mark.slow
def test_other_mistakes_have_their_status(client: openai.OpenAI, address: str) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `gpt-4` does not exist; this server has tiny") as found:
        client.completions.create(model="gpt-4", prompt="a")
    assert (found.value.code, found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="maximum context length") as long:
        complete(client, "a" * 99)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError, match="This is not a chat model"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}])
    post, url = httpx.post, f"{address}/v1/completions"
    kind = {"content-type": "application/json"}
    for content, status in [
        (b"{", 400),
        (b"[1]", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b" " * (1 << 25) + b"{}", 413),
    ]:
        reply = post(url, content=content, headers=kind)
        assert reply.status_code == status and reply.json()["error"]["message"]
    assert post(url, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert httpx.get(url).status_code == 405
    unknown = post(f"{address}/v1/embeddings", json={})
    assert unknown.status_code == 404 and unknown.json()["error"]["message"] == "Invalid URL (POST /v1/embeddings)"


def test_the_list_of_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.max_model_len) == ("tiny", "gptlab", T)  # type: ignore[attr-defined]
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_token_is_the_key() -> None:
    with served(gpt(letters()), letters(), token="secret") as address:
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as found:
            complete(client_of(address), "a")
        assert found.value.code == "invalid_api_key"
        assert len(complete(client_of(address, "secret"), "a", max_tokens=3).choices[0].text) == 3
        assert httpx.get(f"{address}/health").status_code == 200
    with served(gpt(letters()), letters()) as address:
        rebound = httpx.get(f"{address}/v1/models", headers={"host": "evil.example"})
        assert rebound.status_code == 421 and rebound.json()["error"]["type"] == "invalid_request_error"


def test_a_model_that_diverges_is_an_error_of_the_server() -> None:
    model = gpt(letters())
    with torch.no_grad():
        model.ln_f.weight[:] = float("nan")
    with served(model, letters()) as address:
        with pytest.raises(openai.InternalServerError, match="its logits are not finite"):
            complete(client_of(address), "a")
        with pytest.raises(openai.APIError, match="its logits are not finite"):
            list(complete(client_of(address), "a", stream=True))


def test_chat() -> None:
    """In the template of the model: what `gptlab sample chat=true` answers, streamed and with log-probabilities."""
    tokenizer = Byte().build([])
    tokenizer.declare(Declared(ends=(tokenizer.eot,)))
    template, model = chat_template("alpaca", tokenizer), gpt(tokenizer, block_size=300, positions="rope")
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"}]
    ids = template.prompt(messages)
    assert len(ids) < T - 8 or T < 64
    with served(model, tokenizer, template) as address:
        chat = client_of(address).chat.completions
        ask: dict[str, Any] = {"model": "tiny", "messages": messages, "seed": 4, "n": 2, "max_tokens": 8}
        found = chat.create(logprobs=True, top_logprobs=2, **ask)
        chunks = list(chat.create(logprobs=True, top_logprobs=2, stream=True, **ask))
        parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}]
        same = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
        others = chat.create(**{**ask, "messages": same, "max_tokens": None, "max_completion_tokens": 8})
        for more, param in [
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "tool", "content": "a"}]}, "messages"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
            ({"messages": [{"role": "user", "content": "a" * 99}]}, "messages"),
            ({"top_logprobs": 2}, "top_logprobs"),
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ]:
            with pytest.raises(openai.BadRequestError) as error:
                chat.create(**{**ask, **more})
            assert error.value.param == param
    limits = Limits(8, T, template.ends, tokenizer.n_vocab)
    keys = [draw_key(4, "Hi!", sample) for sample in range(2)]
    expected = continue_prompts(model, ChatCodec(template, messages[:1]), ["Hi!"] * 2, keys, Sample(), limits)
    assert [each.message.content for each in found.choices] == [each.text for each in expected]
    assert [each.message.content for each in others.choices] == [each.text for each in expected]
    assert found.object == "chat.completion" and found.choices[0].message.role == "assistant"
    assert found.usage.prompt_tokens == len(ids)
    for choice, drawn in zip(found.choices, expected, strict=True):
        pieces = [each for chunk in chunks for each in chunk.choices if each.index == choice.index]
        assert pieces[0].delta.role == "assistant" and pieces[-1].finish_reason == choice.finish_reason
        assert "".join(each.delta.content or "" for each in pieces) == choice.message.content
        content = choice.logprobs.content
        assert [each.logprob for each in content] == pytest.approx([step.logprob for step in drawn.steps], abs=1e-5)
        assert [each.bytes for each in content] == [list(tokenizer.decode_bytes([i])) for i in drawn.ids]
        assert all(len(each.top_logprobs) == 2 for each in content)
        joined = [each for piece in pieces for each in (piece.logprobs.content if piece.logprobs else [])]
        assert [each.token for each in joined] == [each.token for each in content]


def test_spaces_of_sentencepiece_and_special_tokens() -> None:
    """A token's text is what it adds: the first one of a text has no space, a special one is not shown."""
    made = metaspace(special_bytes=False)
    tokenizer = JSONTokenizer(made.backend_tokenizer.to_str(), made.eos_token_id)
    tokenizer.declare(Declared(bos=1, adds_bos=True, ends=(2,)))
    model = gpt(tokenizer)
    for prompt in ("the world", ""):
        with served(model, tokenizer) as address:
            ask = {"max_tokens": 12, "seed": 3, "logprobs": 1, "echo": True}
            found = complete(client_of(address), prompt, **ask).choices[0]
        limits, keys = Limits(12, T, [2], tokenizer.n_vocab), [draw_key(3, prompt, 0)]
        (drawn,) = continue_prompts(model, tokenizer, [prompt], keys, Sample(), limits, start=tokenizer.start)
        assert found.text == prompt + drawn.text
        tokens, offsets = found.logprobs.tokens, [*found.logprobs.text_offset, len(found.text)]
        for token, start, end in zip(tokens, offsets, offsets[1:], strict=False):
            if not token.startswith(("bytes:", "<")):
                assert found.text[start:end].strip() == token.strip()
        assert offsets == sorted(offsets) and len(set(offsets)) > 8


def test_bos_is_read_and_not_shown() -> None:
    tokenizer = letters()
    tokenizer.declare(Declared(bos=tokenizer.eot, adds_bos=True, ends=(tokenizer.eot,)))
    with served(gpt(tokenizer), tokenizer) as address:
        found = complete(client_of(address), "the", max_tokens=2, logprobs=1, echo=True, **GREEDY)
    ids: Sequence[int] = [tokenizer.eot, *tokenizer.encode("the")]
    expected = gpt(tokenizer)(torch.tensor([ids]))[0, :, : tokenizer.n_vocab].log_softmax(-1)
    (choice,) = found.choices
    assert choice.text.startswith("the") and choice.logprobs.tokens == list(choice.text)
    assert choice.logprobs.token_logprobs[0] == pytest.approx(expected[0, ids[1]].item(), abs=1e-5)
    assert found.usage.prompt_tokens == 4
