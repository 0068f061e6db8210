import hashlib
import http.server
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptlab.data.text import download
from gptlab.errors import UserError

CONTENT = random.Random(0).randbytes(10_000)
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any path; what the path says goes wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str | None] = []  # the range of each request
        self.closing = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        first, path = len(self.server.asked) == 1, self.path
        if "none" in path or ("busy" in path and len(self.server.asked) < 3):
            return self.send_error(404 if "none" in path else 503)
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and "unranged" not in path else 0
        if begin >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        broken = first and ("broken" in path or "stalled" in path)
        for at in range(begin, HALF if broken else len(CONTENT), 500):
            self.wfile.write(CONTENT[at : at + 500])
            if "slow" in path:
                self.server.closing.wait(0.01)
        if first and "stalled" in path:
            self.server.closing.wait(10)

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("whole", [None]),
        ("slow", [None]),
        ("broken", [None, f"bytes={HALF}-"]),
        ("broken-unranged", [None, f"bytes={HALF}-"]),
        ("stalled", [None, f"bytes={HALF}-"]),
        ("busy", [None, None, None]),
    ],
)
def test_a_file_arrives_whole_and_once(
    server: Server, path: str, asked: list[str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    monkeypatch.setattr(download, "BLOCK", 500)
    for _ in range(2):  # the second time from the cache
        assert download.fetch(f"{server.url}/{path}", SHA256).read_bytes() == CONTENT
    assert server.asked == asked
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize(("have", "asked"), [(4000, "bytes=4000-"), (len(CONTENT), f"bytes={len(CONTENT)}-")])
def test_what_a_killed_process_left_is_not_fetched_again(server: Server, have: int, asked: str, tmp_path: Path) -> None:
    (tmp_path / "cache/downloads").mkdir(parents=True)
    (tmp_path / f"cache/downloads/{SHA256}.partial").write_bytes(CONTENT[:have])
    assert download.fetch(f"{server.url}/whole", SHA256).read_bytes() == CONTENT
    assert server.asked == [asked]


def test_another_text_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^data\.sha256=0{{64}}: but {server.url}/whole has {SHA256}; .+"):
        download.fetch(f"{server.url}/whole", "0" * 64)
    assert not kept(tmp_path)


def test_no_such_address_is_asked_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^data\.url={server.url}/none: cannot be fetched \(.*404.*\); .+file:///"):
        download.fetch(f"{server.url}/none", SHA256)
    assert server.asked == [None]
    assert not kept(tmp_path)


def test_attempts_come_to_an_end_and_what_came_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=rf"/broken: cannot be fetched \(.+\), {HALF:,} bytes came so far; "):
        download.fetch(f"{server.url}/broken", SHA256)
    assert [path.read_bytes() for path in kept(tmp_path)] == [CONTENT[:HALF]]
    assert download.fetch(f"{server.url}/broken", SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "file:///nowhere/x", "story.txt", "odd://x"])
def test_what_cannot_be_reached_is_tried_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(UserError, match=rf"^data\.url={url}: cannot be fetched \(.+\); .+file:///"):
        download.fetch(url, SHA256)


def test_a_local_copy_serves_as_a_url(tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(CONTENT)
    assert download.fetch(f"file://{tmp_path}/copy", SHA256).read_bytes() == CONTENT


def test_a_beginning_from_somewhere_else_is_forgotten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache/downloads").mkdir(parents=True)
    (tmp_path / f"cache/downloads/{SHA256}.partial").write_bytes(b"another text")
    assert download.fetch(f"{server.url}/whole", SHA256).read_bytes() == CONTENT
    assert server.asked == ["bytes=12-", None]
