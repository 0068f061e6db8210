"""A real browser, and sites for it that are served in a thread."""

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import ASGIApp

from gptlab.app.server import listening, serve

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        started = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield started
        started.close()


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
    return page
