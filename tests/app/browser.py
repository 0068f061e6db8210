"""A real browser, and sites for it that are served in a thread."""

import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import ASGIApp

from gptlab.app.server import listening, serve

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no chromium")]


OF_CHROMIUM = ("google.com", "googleapis.com", "gstatic.com", "gvt1.com")  # asked at its start, whatever it shows


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Chromium whose own log has, in the end, no request to another machine that a page could have caused."""
    from playwright.sync_api import sync_playwright

    log = tmp_path_factory.mktemp("browser") / "net.json"
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=[*flags, f"--log-net-log={log}"])
        yield started
        started.close()
    hosts = set(re.findall(r'"url":"(?:https?|wss?)://([^/":]+)', log.read_text()))
    others = {host for host in hosts - {"127.0.0.1"} if not host.endswith(OF_CHROMIUM)}
    assert "127.0.0.1" in hosts and not others and not any("autofill" in host for host in hosts), hosts


def address_of(app: ASGIApp, token: str | None = None) -> str:
    """Serve a site in a thread, and return its address."""
    said, ready = list[str](), threading.Event()

    def say(address: str) -> None:
        said.append(address)
        ready.set()

    sock = listening("127.0.0.1", 0)
    threading.Thread(target=serve, args=(app, sock, token, say), daemon=True).start()
    assert ready.wait(30)
    return said[0]


def opened(browser: Any, address: str, seen: list[str], width: int = 390) -> Any:
    """Open an address in a browser of its own; what it requests, its dialogs and its errors are added to `seen`."""
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    page.on("request", lambda request: seen.append(request.url))
    page.on("dialog", lambda dialog: seen.append(f"dialog {dialog.message}"))
    page.on("pageerror", lambda error: seen.append(f"error {error}"))
    page.goto(address)
    painted(page)
    return page


def painted(page: Any) -> None:
    """Wait for two frames of a page: Chromium drops keys that come before a page was painted."""
    page.wait_for_load_state("load")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
