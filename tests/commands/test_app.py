"""The verb `app`: which runs it serves, as the commands beside it see them."""

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.testclient import TestClient

from gptlab.app.served import named_runs
from gptlab.commands.export import export
from gptlab.commands.main import main
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.training.run import train
from tests.conftest import tiny_overrides, working_in, write_texts

Sites = list[Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs, and one of them as Hugging Face has it."""
    folder = tmp_path_factory.mktemp("app")
    with working_in(folder):
        texts = write_texts(folder / "texts")
        for name, seed in {"a": 1, "b": 2}.items():
            more = [f"run_dir={folder}/{name}", f"name={name}", f"seed={seed}", "budget.steps=2"]
            train(compose("train", [*tiny_overrides(texts), *more]))
        export(compose("export", [f"run={folder}/a", f"out={folder}/exported"]))
    yield folder


@pytest.fixture
def sites(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sites:
    """What is served, instead of serving it."""
    found: Sites = []

    def serve(app: Any, sock: socket.socket, token: str | None, say: Callable[[str], None]) -> None:
        found.extend([app, token])
        say("http://here/")

    monkeypatch.setattr("gptlab.app.server.serve", serve)
    monkeypatch.chdir(folder)
    return found


@pytest.mark.slow
def test_texts_are_those_of_sample(sites: Sites, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "run=[a,exported,b/checkpoints/best.ckpt]", "port=0", "json=true"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out) == {"runs": ["a", "exported", "b, best"]}
    app, token = sites
    client = TestClient(app)
    assert token is None and [each["name"] for each in client.get("/site").json()["runs"]] == [
        "a",
        "exported",
        "b, best",
    ]
    for name, place in {"a": "a", "exported": "exported", "b, best": "b/checkpoints/best.ckpt"}.items():
        asked = {"run": name, "prompt": "the cat", "decoder": "top_p", "settings": {"p": 0.8}, "max_new_tokens": 20}
        lines = [json.loads(line) for line in client.post("/write", json=asked).text.splitlines()]
        more = ["prompt='the cat'", "decoder=top_p", "decoder.p=0.8", "max_new_tokens=20"]
        (expected,) = sample(compose("sample", [f"run={place}", *more]))["samples"]
        assert [line["token"]["id"] for line in lines if "token" in line] == expected["ids"]
        costs = [-line["token"]["nats"] for line in lines if "token" in line]
        assert costs == pytest.approx(expected["logprobs"], abs=1e-3)


def test_a_token_where_others_can_come(sites: Sites, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "run=a", "port=0", "host=0.0.0.0"]) == main(["app", "run=a", "port=0", "token=mine"]) == 0
    assert len(sites[1]) > 20 and sites[3] == "mine"
    assert "a\nopen http://here/ - Ctrl-C ends" in capfd.readouterr().out


def test_names_are_no_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    last, best, other = (RunDir.find(name) for name in ("a", "a/checkpoints/best.ckpt", "b"))
    monkeypatch.setattr(other, "title", lambda: "a")
    assert list(named_runs([last, best, other])) == ["a", "a, best", "a (2)"]
    with pytest.raises(UserError, match="run=a: is given twice"):
        named_runs([last, RunDir.find(f"{folder}/a")])


def test_a_classifier_does_not_write(sites: Sites, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("a", "labels")
    config = Path("labels/config.yaml")
    values = yaml.safe_load(config.read_text())
    values["parts"]["task"], values["task"] = "classification", {}
    config.write_text(yaml.safe_dump(values))
    assert main(["app", "run=[a,labels]", "port=0"]) == 2 and sites == []
    said = capfd.readouterr().err
    assert (
        said.startswith("error: run=labels: its task, classification, does not predict the next token")
        and said.count("\n") == 1
    )


def test_what_is_missing_or_taken(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", "run=a", f"port={port}"]) == 2
        assert capfd.readouterr().err == f"error: port={port}: is taken; give another, or port=0 for any that is free\n"
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["app", "run=a"]) == main(["rate", "runs=[a,b]"]) == 2
    said = "page: needs uvicorn; pip install 'gptlab[app]'"
    assert capfd.readouterr().err == f"error: app={said}\nerror: rate={said}\n"
    assert sites == []


def test_it_stops_in_the_middle_of_a_text(folder: Path) -> None:
    said, errors = os.pipe(), Path("errors")
    child = os.fork()  # of this process, which has imported everything
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(said[1], 1)
        os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = main(["app", f"run={folder}/a", "port=0"])
        sys.stderr.flush()
        os._exit(code)
    try:
        os.close(said[1])
        with os.fdopen(said[0]) as out:
            assert out.readline() == "a\n"
            address = out.readline().split()[1]
        asked = {"run": "a", "prompt": "the cat", "decoder": "sample", "settings": {}, "max_new_tokens": 2000}
        with httpx.stream("POST", f"{address}write", json=asked, timeout=60) as reply:
            next(reply.iter_lines())
            os.kill(child, signal.SIGINT)
            _, status = os.waitpid(child, 0)
        child = 0
        assert os.waitstatus_to_exitcode(status) == 130 and "Traceback" not in errors.read_text()
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
