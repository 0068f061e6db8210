"""The verb `serve`: what it serves, and how it ends."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gptlab.commands.export import export
from gptlab.commands.main import main
from gptlab.commands.sample import sample
from gptlab.commands.serve import ServeConfig
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.waiting import wait_until

Tiny = Callable[..., TrainConfig]


class Child:
    """`gptlab serve` in a child of this process; `out` is all that it has printed."""

    def __init__(self, *argv: str) -> None:
        self.log = Path("serve.log").absolute()
        self.log.write_text("")
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            file = os.open(self.log, os.O_WRONLY | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = 70
            try:
                code = main(["serve", *argv])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    @property
    def out(self) -> str:
        return self.log.read_text()

    def base_url(self) -> str:
        wait_until(lambda: "base_url=" in self.out or os.waitpid(self.pid, os.WNOHANG)[0])
        return re.search(r"base_url=(\S+)", self.out)[1]  # type: ignore[index]

    def ended(self, number: int) -> int:
        os.kill(self.pid, number)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def serving(*argv: str) -> Iterator[tuple[Child, openai.OpenAI]]:
    child = Child(*argv, "port=0")
    try:
        key = re.search(r"api_key=(\S+)", child.out) if child.base_url() else None
        url = child.base_url().replace("0.0.0.0", "127.0.0.1")
        yield child, openai.OpenAI(base_url=url, api_key=key[1] if key else "none", max_retries=0, timeout=60)
    finally:
        try:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def refuses(url: str) -> bool:
    """Tell whether nobody listens any more."""
    try:
        httpx.get(url, timeout=1)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        pass
    return False


def drawn(run: str, *more: str) -> list[str]:
    return [each["text"] for each in sample(compose("sample", [f"run={run}", *more]))["samples"]]


@pytest.mark.slow
def test_a_run_a_checkpoint_and_a_directory_of_hugging_face(tiny: Tiny) -> None:
    """Each has the texts of `gptlab sample`, in its precision."""
    train(tiny("tokenizer=bpe", "tokenizer.vocab_size=300"))
    export(compose("export", ["run=run", "out=hf"]))
    asked = ["prompts=[the cat,a]", "max_new_tokens=9", "seed=3", "decoder=sample", "num_samples=2"]
    for given, name, more in [
        ("latest", "run", []),
        ("hf", "hf", []),
        ("run/checkpoints/last.ckpt", "other", ["name=other", "precision=bf16-true"]),
    ]:
        expected = drawn(given, *asked, *(each for each in more if each.startswith("precision")))
        with serving(f"run={given}", *more) as (child, client):
            assert [model.id for model in client.models.list()] == [name]
            found = client.completions.create(model=name, prompt=["the cat", "a"], n=2, seed=3, max_tokens=9)
            assert [each.text for each in found.choices] == expected
            assert f"{name}: completions, no chat (neither its task nor its tokenizer has a chat template)" in child.out
            assert child.ended(signal.SIGINT) == 130
        assert child.out.endswith("stopped: 1 requests were answered, 0 texts given up\n")


@pytest.mark.slow
def test_answers_past_the_context(tiny: Tiny) -> None:
    """Of a context of 32: they end there, or go on as those of `gptlab sample overflow=ring`."""
    train(tiny("model.positions=alibi"))
    for more, n in [([], 25), (["overflow=ring"], 80), (["overflow=ring", "sinks=4"], 80)]:
        ring = more or ["overflow=ring"]
        (expected,) = drawn("run", "prompt=the cat", "max_new_tokens=80", "seed=3", *ring)
        with serving("run=run", *more) as (_, client):
            found = client.completions.create(
                model="run", prompt="the cat", seed=3, max_tokens=80, extra_body={"top_k": 50}
            )
            assert (found.choices[0].finish_reason, found.usage.completion_tokens) == ("length", n)  # type: ignore[union-attr]
            assert found.choices[0].text == expected[: len(found.choices[0].text)]
            assert (found.choices[0].text == expected) == (n == 80)


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 2], ids=len)
def test_a_stop_ends_answers_in_order(tiny: Tiny, signals: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams end with an error that says why, waiting requests with 503; the code is that of the signal.

    A second signal ends them at once, without waiting for them.
    """
    train(tiny())
    monkeypatch.setattr("gptlab.app.server.PATIENCE", 0.3 if len(signals) == 1 else 1000)  # of the child, too
    with serving("max_batch=1") as (child, client):
        ask: dict[str, Any] = {"model": "run", "prompt": ["the cat"] * 600, "max_tokens": 24, "temperature": 0}
        stream, waits = client.completions.create(stream=True, **ask), list[Exception]()
        next(iter(stream))

        def wait() -> None:
            with pytest.raises(openai.APIStatusError) as error:
                client.completions.create(**ask)
            waits.append(error.value)

        thread = threading.Thread(target=wait)
        thread.start()
        health = child.base_url().replace("/v1", "/health")
        wait_until(lambda: httpx.get(health).json()["waiting"] > 600)
        for number in signals:
            os.kill(child.pid, number)
            wait_until(lambda: refuses(health))  # else two signals may be one
        with pytest.raises(openai.APIError, match="the server is stopping"):
            for _ in stream:
                pass
        thread.join(30)
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    assert code == 128 + signals[0]
    assert re.search(r"stopped: 0 requests were answered, [0-9]+ texts given up\n$", child.out)
    assert "Traceback" not in child.out
    assert [getattr(error, "status_code", None) for error in waits] == [503]


def test_the_token_of_a_server_for_others(tiny: Tiny) -> None:
    train(tiny())
    with serving("host=0.0.0.0") as (child, client):
        assert len(client.models.list().data) == 1
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        assert child.ended(signal.SIGINT) == 130


def test_values_that_are_refused() -> None:
    for fields, why in [
        ({"max_batch": 0}, "max_batch=0: must be at least 1"),
        ({"precision": "16"}, "precision=16: no such option; choose one of 32-true, bf16-true"),
        ({"port": 65536}, "port=65536: is no port"),
        ({"name": ""}, "name='': is empty"),
    ]:
        with pytest.raises(UserError, match=re.escape(why)):
            ServeConfig(**fields)  # type: ignore[arg-type]
