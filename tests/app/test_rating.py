"""Pages that people rate in: blind, and no acknowledged answer is lost."""

import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from gptlab.app.questions import beta_variance, next_question
from gptlab.app.rating import rating_app
from gptlab.app.server import Guard, is_loopback, listening, token_for
from gptlab.app.store import Source, Study
from gptlab.errors import UserError

SOURCES = [Source(name, {"val_perplexity": 10.0 + n}) for n, name in enumerate(("good", "fair", "poor"))]
NASTY = "<script>alert(1)</script> & \"'"


def study_of(prompts: int = 4, mode: str = "pairs", path: str = "study.db") -> Study:
    texts = {
        f"{NASTY} {p}": {s.name: f"text {p} of source {n} {NASTY}" for n, s in enumerate(SOURCES)}
        for p in range(prompts)
    }
    return Study.create(Path(path), {"mode": mode, "criteria": ["fluency", "a b"], "seed": 1}, SOURCES, texts)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def client_of(study: Study, name: str = "Ann") -> TestClient:
    client = TestClient(rating_app(study), follow_redirects=True)
    client.post("/rater", data={"name": name})
    return client


def question_in(page: str) -> str:
    return re.search(r'name="question" value="(\d+)"', page)[1]  # type: ignore[index]


def test_a_rater_judges_every_pair_once_and_is_not_told_whose_the_texts_are() -> None:
    study = study_of()
    client = client_of(study)
    for n in range(12):  # 3 pairs of sources, 4 prompts
        page = client.get("/").text
        assert client.get("/").text == page, "a reload asks the same"
        assert f"Ann: {n} answered" in page and not re.search("good|fair|poor", page)
        assert "<script>alert" not in page and "&lt;script&gt;alert" in page
        client.post("/answer", data={"question": question_in(page), "choice": ("left", "tie", "right")[n % 3]})
    assert "That was all" in client.get("/").text
    found = study.answers()
    assert len({(each.prompt, *sorted((each.left, str(each.right)))) for each in found}) == len(found) == 12
    assert Counter(each.said for each in found) == {"left": 4, "tie": 4, "right": 4}
    assert 0 < sum(each.left < str(each.right) for each in found) < 12, "the sides are drawn"


def test_an_answer_counts_once_and_for_its_rater() -> None:
    study = study_of()
    ann, bob = client_of(study), client_of(study, "Bob")
    question = question_in(ann.get("/").text)
    assert question_in(bob.get("/").text) != question
    for client, data, code in [
        (bob, {"question": question, "choice": "left"}, 400),
        (ann, {"question": question, "choice": "neither"}, 400),
        (ann, {"question": "1e9", "choice": "left"}, 400),
        (ann, {"question": "9" * 30, "choice": "left"}, 400),
        (ann, {"choice": "x" * 20_000}, 400),
        (TestClient(rating_app(study)), {"question": question, "choice": "left"}, 400),
        (ann, {"question": question, "choice": "left"}, 200),
        (ann, {"question": question, "choice": "right"}, 200),
    ]:
        assert client.post("/answer", data=data).status_code == code
    (kept,) = study.answers()
    assert (kept.rater, kept.said) == ("Ann", "left")
    again = client_of(Study(study.path), "  Ann ")
    assert "Ann: 1 answered" in again.get("/").text
    assert "Your name" in again.post("/leave").text
    assert again.post("/rater", data={"name": " "}).status_code == 400


def test_scores_by_criteria() -> None:
    study = study_of(2, "rubric")
    client = client_of(study)
    for _ in range(6):
        page = client.get("/").text
        given = {"question": question_in(page), "criterion-fluency": "5"}
        assert client.post("/answer", data=given).status_code == 400  # one is missing
        assert client.post("/answer", data={**given, "criterion-a b": "6"}).status_code == 400
        client.post("/answer", data={**given, "criterion-a b": "2"})
    assert "That was all" in client.get("/").text
    found = study.answers()
    assert {each.left for each in found} == {"good", "fair", "poor"} and {each.right for each in found} == {None}
    assert all(each.said == {"fluency": 5, "a b": 2} for each in found)


def test_the_pair_that_is_known_least_is_asked() -> None:
    """Good beats poor and fair equals good in all answers: what is left to learn is in the pair with ties."""
    study = study_of(60)
    for n in range(60):
        rater = study.rater(f"rater {n % 2}")
        question = next_question(study, rater)
        assert question is not None and question.right is not None
        sources = [re.search(r"source (\d)", study.text(text)[1])[1] for text in (question.left, question.right)]  # type: ignore[index]
        said = "tie" if set(sources) == {"0", "1"} else "left" if sources[0] < sources[1] else "right"
        study.answer(rater, question.id, said)
    counts = Counter(tuple(sorted((each.left, str(each.right)))) for each in study.answers())
    assert counts["fair", "good"] > 2 * counts["good", "poor"] > 4
    assert beta_variance(1, 2) == pytest.approx(2 * 2 / (4**2 * 5))  # of Beta(2, 2)


def test_texts_that_are_equal_are_not_compared() -> None:
    study = Study.create(
        Path("s.db"), {"mode": "pairs", "criteria": [], "seed": 1}, SOURCES[:2], {"a": {"good": "x", "fair": "x"}}
    )
    assert next_question(study, study.rater("Ann")) is None


def test_pages_load_nothing_from_elsewhere() -> None:
    client = client_of(study_of())
    page = client.get("/")
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page.text)) == {"/site.css", "/rating.css", "/rating.js"}
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    for name, code in {"site.css": 200, "rating.js": 200, "name.html": 404, "__init__.py": 404}.items():
        assert client.get(f"/{name}").status_code == code
    assert "http" not in client.get("/rating.css").text + client.get("/rating.js").text


def test_others_need_the_token() -> None:
    assert token_for("127.0.0.1", None) is None and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and len(str(token_for("0.0.0.0", None))) > 20 and token_for("::1", "t") == "t"
    app = rating_app(study_of())
    closed = TestClient(Guard(app, "secret"), base_url="http://box:1")
    assert closed.get("/").status_code == closed.get("/?token=secre").status_code == 403
    assert closed.get("/?token=secret").status_code == closed.get("/").status_code == 200  # by the cookie
    own = Guard(app, None)
    assert TestClient(own, base_url="http://127.0.0.1:8765").get("/").status_code == 200
    assert TestClient(own, base_url="http://evil.example").get("/").status_code == 421
    assert TestClient(own, base_url="http://localhost.evil.example").get("/").status_code == 421


def test_a_port_that_is_taken() -> None:
    with listening("127.0.0.1", 0) as sock, pytest.raises(UserError, match="is taken; give another, or port=0"):
        listening("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(UserError, match="host=nowhere.invalid: is no address here"):
        listening("nowhere.invalid", 1)


def test_files_that_are_no_study() -> None:
    study = study_of()
    with pytest.raises(UserError, match="exists already"):
        study_of()
    with sqlite3.connect("study.db") as db:
        db.execute("PRAGMA user_version=2")
    with pytest.raises(UserError, match="was made by a newer gptlab"):
        Study(study.path)
    with sqlite3.connect("other.db") as db:
        db.execute("CREATE TABLE a (b)")
    Path("text.db").write_text("not a database at all" * 99)
    for name in ("other.db", "text.db"):
        with pytest.raises(UserError, match="is not a study"):
            Study(Path(name))
    with pytest.raises(UserError, match="no such file; begin a study"):
        Study(Path("none.db"))


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        found = sock.getsockname()[1]
    yield found


@pytest.mark.slow
def test_fifty_raters_and_a_server_that_is_killed(port: int) -> None:
    """Every answer that was acknowledged is kept, once; the server is killed twice while 50 raters answer."""
    study_of(12)
    command = [sys.executable, "-m", "gptlab", "rate", "study=study.db", f"port={port}"]
    acknowledged: list[tuple[str, int]] = []
    base, over = f"http://127.0.0.1:{port}", threading.Event()

    def rate(name: str) -> None:
        with httpx.Client(base_url=base, timeout=20) as client:
            client.cookies.set("rater", name.encode().hex())
            done = 0
            while done < 4 and not over.is_set():
                try:
                    page = client.get("/").text
                    if "That was all" in page:
                        return
                    question = question_in(page)
                    if client.post("/answer", data={"question": question, "choice": "left"}).status_code == 303:
                        acknowledged.append((name, int(question)))
                        done += 1
                except (httpx.TransportError, TypeError):
                    time.sleep(0.1)

    raters = [threading.Thread(target=rate, args=(f"rater {n}",)) for n in range(50)]
    for thread in raters:
        thread.start()
    try:
        for kill in range(3):
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            enough, deadline = 60 * (kill + 1), time.monotonic() + 120
            while len(acknowledged) < enough and any(t.is_alive() for t in raters) and time.monotonic() < deadline:
                time.sleep(0.02)
            if kill < 2:
                server.kill()
                server.wait()
        for thread in raters:
            thread.join(60)
        server.send_signal(signal.SIGINT)
        server.wait(30)
    finally:
        over.set()
        server.kill()
    assert len(acknowledged) == 200 and len(set(acknowledged)) == 200
    with sqlite3.connect("study.db") as db:
        kept = Counter(
            db.execute(
                "SELECT r.name, q.id FROM answers a JOIN questions q ON q.id = a.question JOIN raters r ON r.id = q.rater"
            )
        )
    assert set(acknowledged) <= set(kept) and max(kept.values()) == 1
