"""The playground's texts, bars and attention, and all that is asked of it wrongly."""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from gptlab import registry
from gptlab.app import playground
from gptlab.app.pages import FOLDER
from gptlab.app.playground import playground_app
from gptlab.app.served import Served
from gptlab.app.server import Guard
from gptlab.app.settings import decoder_forms
from gptlab.app.writing import spelled_out, written
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Beam, MinP, TopK, TopP
from gptlab.decoding.generate import draw_key
from gptlab.decoding.texts import best_continuations, continue_prompts
from gptlab.evaluation.chat import fitting
from gptlab.model.attention_weights import attention_at
from gptlab.tokenizers.chat_templates import ChatCodec
from tests.app.browser import address_of
from tests.app.models import TOKENIZER, saying, served, softmax

MODELS = [served("a", 1, chat=True), served("b", 2), saying("Hi there")]
ASKED = {"run": "a", "prompt": "the cat", "decoder": "top_k", "settings": {}}
LOOKED = {"run": "a", "ids": [116, 104, 101], "at": 1, "decoder": "top_k", "settings": {}}


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(playground_app(MODELS))


def events(client: Any, **asked: Any) -> list[dict[str, Any]]:
    reply = client.post("/write", json=ASKED | asked)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def text_of(found: list[dict[str, Any]]) -> str:
    return "".join(event["token"]["text"] if "token" in event else event.get("rest", "") for event in found)


def look(client: TestClient, **asked: Any) -> dict[str, Any]:
    reply = client.post("/look", json=LOOKED | asked)
    assert reply.status_code == 200, reply.text
    return reply.json()


def logits_after(model: Served, ids: list[int]) -> list[float]:
    with torch.no_grad():
        return model.gpt(torch.tensor([ids]))[0, -1].tolist()


@pytest.mark.parametrize(
    "decoder", [TopK(k=20), TopP(temperature=0.8, p=0.7), MinP(min_p=0.2), Beam(beams=3)], ids=registry.name_of
)
def test_a_text_is_that_of_sample_token_by_token(client: TestClient, decoder: Any) -> None:
    name = registry.name_of(decoder)
    found = events(client, decoder=name, settings=vars(decoder), seed=7, max_new_tokens=30)
    gpt = MODELS[0].gpt
    limits = Limits(30, 64, TOKENIZER.ends, TOKENIZER.n_vocab)
    if isinstance(decoder, Beam):
        (expected,) = best_continuations(gpt, TOKENIZER, "the cat", decoder, limits, 1)
        assert [event["searched"] for event in found if "searched" in event] == list(range(1, 31))
    else:
        (expected,) = continue_prompts(gpt, TOKENIZER, ["the cat"], [draw_key(7, "the cat", 0)], decoder, limits)
    assert text_of(found) == expected.text
    tokens = [event["token"] for event in found if "token" in event]
    assert [token["id"] for token in tokens] == expected.ids and len(tokens) == 30
    assert found[-1]["end"] == "max_new_tokens"
    ids = [token["id"] for token in [*found[0]["given"], *tokens]]
    assert bytes(ids[:7]) == b"the cat"
    for at, token in enumerate([*found[0]["given"], *tokens]):
        nats = None if at == 0 else -np.log(softmax(logits_after(MODELS[0], ids[:at]))[token["id"]])
        assert token["nats"] == (None if nats is None else pytest.approx(nats, abs=2e-3))


def test_a_text_that_the_model_ends(client: TestClient) -> None:
    found = events(client, run="says", prompt="H", decoder="greedy")
    assert text_of(found) == "i there" and found[-1]["end"] == "the model ended it"


def test_characters_are_whole_and_special_tokens_have_names(client: TestClient) -> None:
    ids = [*TOKENIZER.encode("aé–b"), TOKENIZER.eot]
    assert spelled_out(TOKENIZER, ids) == ["a", "", "é", "", "", "–", "b", "<|endoftext|>"]
    found = events(client, run="says", prompt="H", decoder="greedy")[0]
    assert found["given"] == [{"id": 72, "text": "H", "nats": None}]


def test_a_chat_is_that_of_the_verb(client: TestClient) -> None:
    model = MODELS[0]
    assert model.template is not None
    limits = Limits(9, 64, model.template.ends, TOKENIZER.n_vocab)
    said: list[dict[str, str]] = []
    for number, line in enumerate(["hello", "what?", "and a longer message", "bye"]):
        kept, forgotten = fitting(model.template, [{"role": "system", "content": "S"}], said, line, 64 - 9)
        codec = ChatCodec(model.template, [{"role": "system", "content": "S"}, *kept])
        key = draw_key(1337, line, number)
        (answer,) = continue_prompts(model.gpt, codec, [line], [key], TopK(), limits)
        before = [each["content"] for each in said]
        found = events(client, prompt=line, chat=True, system="S", said=before, max_new_tokens=9)
        assert text_of(found) == answer.text and found[0]["forgotten"] == forgotten
        said += [{"role": "user", "content": line}, {"role": "assistant", "content": answer.text}]
    assert forgotten > 0, "the conversation outgrows the context"


@pytest.mark.parametrize("decoder", [TopK(k=3, temperature=0.5), MinP(min_p=0.3), TopP(p=0.5)], ids=registry.name_of)
def test_bars_before_and_after(client: TestClient, decoder: Any) -> None:
    ids = list(b"the cat sat")
    name, settings = registry.name_of(decoder), vars(decoder)
    found = look(client, ids=ids, at=5, decoder=name, settings=settings)["next"]
    logits = logits_after(MODELS[0], ids[:5])
    raw, tempered = softmax(logits), softmax(np.array(logits) / decoder.temperature)
    final = decoder(torch.tensor([logits]))[0].numpy()
    order = np.argsort(-raw, kind="stable")[:10].tolist()
    bars = {bar["token"]: bar for bar in found["alternatives"]}
    assert list(bars)[:10] == order and set(bars) == {*order, ids[5]}
    for token, bar in bars.items():
        expected = raw[token], tempered[token], final[token]
        assert (bar["raw"], bar["tempered"], bar["final"]) == pytest.approx(expected, abs=1e-5)
        assert bar["text"] == TOKENIZER.spell(token)
    assert found["kept"] == (final > 0).sum() and found["of"] == 257 and not found["searched"]
    assert found["nats"] == pytest.approx(-np.log(raw[ids[5]]), abs=1e-3)
    assert found["rank"] == 1 + (raw > raw[ids[5]]).sum()
    assert found["entropy"] == pytest.approx(-(raw * np.log(raw)).sum(), abs=1e-3)


def test_what_comes_first_and_next(client: TestClient) -> None:
    first, last = look(client, at=0), look(client, at=3)
    assert first["next"] is None and first["attention"]["to"] == [1.0, 0.0, 0.0]
    assert last["attention"] is None and "nats" not in last["next"] and len(last["next"]["alternatives"]) == 10
    searched = look(client, decoder="beam")["next"]
    assert searched["searched"] and all(bar["raw"] == bar["final"] for bar in searched["alternatives"])


def test_attention_of_a_layer_of_a_head_and_their_means(client: TestClient) -> None:
    ids = list(b"the cat sat on a mat")
    found = attention_at(MODELS[0].gpt, ids, 9)
    assert found is not None
    for layer, head in [(None, None), (1, None), (None, 0), (1, 1)]:
        expected = found.double().numpy()
        expected = expected.mean(1) if layer is None else expected[:, layer]
        expected = expected.mean(1) if head is None else expected[:, head]
        shown = look(client, ids=ids, at=9, layer=layer, head=head)["attention"]
        assert (shown["layers"], shown["heads"], shown["first"]) == (2, 2, 0)
        assert np.abs(np.array([shown["to"], shown["by"]]) - expected).max() <= 1e-4
        assert sum(shown["to"]) == pytest.approx(1, abs=2e-3) and shown["by"][:9] == [0] * 9
    assert look(client, run="says")["attention"] is None, "another kind of model has none"


def test_a_text_that_outgrows_the_context(client: TestClient) -> None:
    found = events(client, max_new_tokens=80)
    ids = [token["id"] for token in found[0]["given"]] + [each["token"]["id"] for each in found if "token" in each]
    shown = look(client, ids=ids, at=80)
    expected = softmax(logits_after(MODELS[0], ids[16:80]))
    assert shown["next"]["alternatives"][0]["raw"] == pytest.approx(expected.max(), abs=1e-5)
    assert shown["attention"]["first"] == 17 and len(shown["attention"]["to"]) == 64


WRONG: list[tuple[str, Any, str]] = [
    ("write", {"run": "c"}, "run=c: is not served here; choose one of a, b, says"),
    ("write", {"run": "../a"}, "run=../a: is not served here"),
    ("write", {"run": 5}, "run=5: has a run that is no text"),
    ("write", {"run": None}, "run=None: has a run that is no text"),
    ("write", {"prompt": ""}, "prompt='': is empty; give some text"),
    ("write", {"prompt": "x" * 65}, "prompt=65 tokens: do not fit into the context of 64; shorten it"),
    ("write", {"prompt": ["x"]}, "prompt=['x']: has a prompt that is no text"),
    ("write", {"prompt": "\ud800"}, "prompt='\\ud800': has half a character"),
    ("write", {"decoder": "topk"}, "decoder=topk: no such option; choose one of "),
    ("write", {"settings": []}, "settings=[]: is no dict"),
    ("write", {"settings": {"q": 1}}, "q=1: no such key; choose one of temperature, k"),
    ("write", {"settings": {"k": 0}}, "k=0: keeps no token"),
    ("write", {"settings": {"k": 1.5}}, "k=1.5: is of another type; give a whole number"),
    ("write", {"settings": {"k": True}}, "k=True: is of another type"),
    ("write", {"settings": {"temperature": -1}}, "temperature=-1: is not in [0, inf)"),
    ("write", {"settings": {"temperature": "1"}}, "temperature='1': is no number"),
    ("write", {"settings": {"temperature": 10**400}}, "temperature=1000"),
    ("write", {"decoder": "beam", "settings": {"beams": 65}}, "beams=65: is more than 64"),
    ("write", {"seed": -1}, "seed=-1: is not in 0 to "),
    ("write", {"seed": 2**53}, "seed=9007199254740992: is not in 0 to "),
    ("write", {"max_new_tokens": 0}, "max_new_tokens=0: is not in 1 to 2000"),
    ("write", {"max_new_tokens": 2001}, "max_new_tokens=2001: is not in 1 to 2000"),
    ("write", {"chat": "yes"}, "chat='yes': is of another type; give true or false"),
    ("write", {"run": "b", "chat": True}, "chat=true: b has no chat template"),
    ("write", {"system": "S"}, "system=given: goes with chat"),
    ("write", {"chat": True, "said": ["a"]}, "said=1 messages: do not end with an answer"),
    ("write", {"chat": True, "said": [1, 2]}, "said=1: has a said that is no text"),
    ("write", {"chat": True, "said": "ab"}, "said='ab': is no list"),
    ("write", {"path": "/etc/passwd"}, "path='/etc/passwd': no such key"),
    ("look", {"ids": []}, "ids=[]: are no text"),
    ("look", {"ids": [1, "2"]}, "ids='2': is of another type"),
    ("look", {"ids": [1, 257]}, "ids=given: are not all in 0 to 256"),
    ("look", {"ids": [1, -1]}, "ids=given: are not all in 0 to 256"),
    ("look", {"at": 4}, "at=4: is not in 0 to 3"),
    ("look", {"layer": 2}, "layer=2: is not in 0 to 1"),
    ("look", {"head": -1}, "head=-1: is not in 0 to 1"),
    ("look", {"layer": 0.5}, "layer=0.5: is of another type"),
]


@pytest.mark.parametrize(("where", "asked", "line"), WRONG, ids=lambda each: str(each)[:30])
def test_what_is_asked_wrongly_is_answered_in_a_line(client: TestClient, where: str, asked: Any, line: str) -> None:
    content = json.dumps((ASKED if where == "write" else LOOKED) | asked)
    reply = client.post(f"/{where}", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400 and reply.json()["error"].startswith(line), reply.text
    assert "\n" not in reply.json()["error"] and len(reply.json()["error"]) < 400


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"a": NaN}', "[" * 100_000, b"\xff"])
def test_bodies_that_are_no_object(client: TestClient, body: Any) -> None:
    reply = client.post("/write", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400 and reply.json()["error"].startswith("body=")


def test_missing_keys_large_bodies_and_forms(client: TestClient) -> None:
    for key in ASKED:
        reply = client.post("/write", json={name: value for name, value in ASKED.items() if name != key})
        assert (reply.status_code, reply.json()["error"]) == (400, f"{key}=null: is missing; give it")
    assert "has more than" in client.post("/write", json=ASKED | {"prompt": "x" * (1 << 20)}).json()["error"]
    form = client.post("/write", content=json.dumps(ASKED), headers={"content-type": "text/plain"})
    assert form.status_code == 400 and form.json()["error"].startswith("content-type=text/plain: ")
    assert client.get("/write").status_code == 404


def test_pages_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    linked = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
    assert linked == {"/site.css", "/playground.css", "/playground.js"}
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in FOLDER.glob("*.js"):
        source = client.get(f"/{path.name}").text
        assert source and not re.search(r"https?:|innerHTML|outerHTML|insertAdjacent|document.write|eval\(", source)
        assert all((FOLDER / name).is_file() for name in re.findall(r'from "\./([^"]+)"', source))


def test_others_need_the_token() -> None:
    closed = TestClient(Guard(playground_app(MODELS), "secret"), base_url="http://box:1")
    assert closed.get("/site").status_code == closed.post("/write", json=ASKED).status_code == 403
    assert closed.get("/?token=secret").status_code == closed.post("/write", json=ASKED).status_code == 200


def test_sliders_are_made_of_the_decoders() -> None:
    forms = decoder_forms()
    ends = {
        (name, each["name"]): (each["kind"], each["usual"], each["least"], each["most"], each["step"])
        for name, form in forms.items()
        for each in form["settings"]
    }
    assert ends["top_k", "k"] == ("int", 50, 1, 200, 1.0)
    assert ends["top_p", "p"] == ("float", 0.9, 0.01, 1.0, 0.01)
    assert ends["min_p", "min_p"] == ("float", 0.05, 0.0, 1.0, 0.01)
    assert ends["sample", "temperature"] == ("float", 1.0, 0.0, 2.0, 0.01)
    assert ends["beam", "beams"] == ("int", 4, 1, 16, 1.0)
    assert forms["greedy"] == {"about": "Always the most probable token", "settings": []}
    (k,) = [each for each in forms["top_k"]["settings"] if each["name"] == "k"]
    assert k["about"] == "only the k most probable tokens are drawn"


@dataclass
class Fussy:
    """A decoder of another package."""

    epsilon: float = 3e-4  # its only number
    loud: bool = False
    word: str = "x"
    more: tuple[int, ...] = ()  # of a kind that pages do not ask for

    def __post_init__(self) -> None:
        if self.word == "y":
            raise ValueError("not this word")

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        if self.loud:
            raise RuntimeError("too loud")
        return TopK(k=1)(logits)


@pytest.fixture
def _fussy(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.import_own_parts()
    monkeypatch.setitem(registry._OPTIONS["decoder"], "fussy", Fussy)


@pytest.mark.usefixtures("_fussy")
def test_a_decoder_of_another_package(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    form = client.get("/site").json()["decoders"]["fussy"]
    assert [(each["name"], each["kind"]) for each in form["settings"]] == [
        ("epsilon", "float"),
        ("loud", "bool"),
        ("word", "str"),
    ]
    assert form["settings"][0] | {"about": ""} == {
        **{"name": "epsilon", "kind": "float", "usual": 3e-4, "about": ""},
        **{"least": 0.0, "most": 2.0, "step": pytest.approx(1e-4)},
    }
    greedy = text_of(events(client, decoder="greedy"))
    settings = {"epsilon": 0.1, "loud": False, "word": "é"}
    assert text_of(events(client, decoder="fussy", settings=settings)) == greedy
    refused = client.post("/write", json=ASKED | {"decoder": "fussy", "settings": {"word": "y"}})
    assert refused.json()["error"] == "decoder=fussy: cannot be built (not this word); change its settings"
    crashed = events(client, decoder="fussy", settings={"loud": True})[-1]
    assert crashed == {"error": "it failed (RuntimeError: too loud); the server's log says more"}
    reply = client.post("/look", json=LOOKED | {"decoder": "fussy", "settings": {"loud": True}})
    assert reply.status_code == 500 and reply.json() == crashed
    assert capfd.readouterr().err.count("Traceback") == 2
    assert text_of(events(client, decoder="greedy")) == greedy, "the server goes on"


def test_a_model_that_has_diverged_says_so() -> None:
    model = served("broken", 1)
    with torch.no_grad():
        model.gpt.lm_head.weight.fill_(float("nan"))
    client = TestClient(playground_app([model]))
    assert events(client, run="broken")[-1]["error"].startswith("run=its model: has diverged")
    assert client.post("/look", json=LOOKED | {"run": "broken"}).status_code == 400


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a playground in which two texts at a time are written."""
    monkeypatch.setattr(playground, "MOST_TEXTS", 2)
    yield address_of(playground_app(MODELS))


@pytest.mark.slow
def test_many_at_once_are_not_mixed_up(site: str, client: TestClient) -> None:
    prompts = [f"prompt {n}" for n in range(8)]
    alone = [
        text_of(events(client, prompt=prompt, run="ab"[n % 2], max_new_tokens=40)) for n, prompt in enumerate(prompts)
    ]
    found, waited = dict[int, str](), list[bool]()

    def ask(n: int) -> None:
        with httpx.Client(base_url=site, timeout=60) as own:
            got = events(own, prompt=prompts[n], run="ab"[n % 2], max_new_tokens=40)
            own.post("/look", json=LOOKED)
            found[n] = text_of(got)
            waited.append("waiting" in got[0])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [found[n] for n in range(len(prompts))] == alone and len(set(alone)) == len(prompts)
    assert 0 < sum(waited) < len(prompts)


def test_who_goes_away_takes_no_turn_and_no_place(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def counted(*asked: Any) -> Iterator[dict[str, Any]]:
        at = len(counts)
        counts.append(0)
        for event in written(*asked):
            yield event
            counts[at] += 1

    monkeypatch.setattr(playground, "written", counted)
    with httpx.Client(base_url=site, timeout=60) as own:
        for _ in range(6):
            with own.stream("POST", "/write", json=ASKED | {"max_new_tokens": 2000}) as reply:
                lines = reply.iter_lines()
                while "token" not in json.loads(next(lines)):
                    pass
        assert events(own, max_new_tokens=3)[-1]["end"] == "max_new_tokens"
    assert len(counts) == 7 and max(counts) < 1500, counts
