"""The playground in a real browser: keys alone, a phone, links, stops, chats, and nothing that leaves the machine."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import pytest

from gptlab.app.playground import playground_app
from tests.app.browser import address_of, in_browser, opened
from tests.app.browser import browser as browser  # a fixture
from tests.app.models import NASTY, saying, served

pytestmark = in_browser
MODELS = [served("a", 1, chat=True, block_size=256), served("b", 2, block_size=256), saying(f"x{NASTY}")]


@pytest.fixture(scope="module")
def site() -> str:
    return address_of(playground_app(MODELS))


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, site: str) -> Iterator[Visit]:
    """Open pages of the site; all that they request is on it, and there are no dialogs and no errors."""
    seen, pages = list[str](), list[Any]()

    def visit(address: str = site, width: int = 1200) -> Any:
        page = opened(browser, address, seen, width)
        until(page, "document.getElementById('decoder').options.length > 0")
        pages.append(page)
        return page

    yield visit
    for page in pages:
        page.context.close()
    assert seen and all(url.startswith(site) for url in seen), seen


def begun(visit: Visit, width: int = 1200) -> Any:
    page = visit(width=width)
    page.select_option("#beside", "")
    page.select_option("#mode", "")
    return page


def until(page: Any, expression: str, given: Any = None) -> None:
    """Wait until JavaScript is true; Playwright's own function for it needs eval(), which the pages forbid."""
    for _ in range(1500):
        if page.evaluate(expression, given):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{expression} does not come true")


def write(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.keyboard.press("Control+Enter")
    finished(page)


def finished(page: Any) -> None:
    page.wait_for_selector("#look:not([hidden])")
    page.wait_for_selector("#stop[disabled]")


def texts(page: Any) -> list[str]:
    return page.eval_on_selector_all("#panes .text", "all => all.map((each) => each.textContent)")


def bars(page: Any) -> str:
    return page.inner_text("#bars")


def linked(page: Any) -> dict[str, Any]:
    return json.loads(unquote(page.url.partition("#")[2]))


def no_wider_than_a_phone(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth") <= 390


def test_everything_by_keys_alone_on_a_phone(visit: Visit) -> None:
    """Tab reaches every field; the arrows move sliders, choices and from token to token."""
    page = visit(width=390)
    press = page.keyboard.press

    def focused() -> str:
        return page.evaluate("document.activeElement.id || document.activeElement.className")

    def tab_to(name: str) -> None:
        for _ in range(40):
            if focused() == name:
                return
            press("Tab")
        raise AssertionError(f"Tab does not reach {name}")

    assert focused() == "prompt"
    page.evaluate("document.getElementById('run').focus()")
    tab_to("mode")
    press("c")  # continues
    tab_to("beside")
    press("n") if page.evaluate("document.getElementById('beside').value") else None
    tab_to("prompt")
    page.keyboard.type("the cat")
    tab_to("max_new_tokens")
    press("Control+a")
    page.keyboard.type("20")
    tab_to("setting-k")
    press("Shift+Tab")  # to its slider
    press("Home")
    assert page.input_value("#setting-k") == "1"
    tab_to("write")
    press("Enter")
    finished(page)
    assert no_wider_than_a_phone(page)
    before = bars(page)
    tab_to("token chosen")
    press("End")
    until(page, "document.getElementById('look-title').textContent.startsWith('what comes next')")
    press("Home")
    until(page, "document.getElementById('figures').textContent.startsWith('Nothing stands before')")
    for _ in range(7):
        press("ArrowRight")
    until(page, "(before) => document.getElementById('bars').innerText === before", before)
    tab_to("layer")
    press("ArrowDown")
    until(page, "document.getElementById('layer').value === '0'")
    assert no_wider_than_a_phone(page)
    assert "100.0%" in bars(page), "with k=1 there is one token to draw"


def test_a_link_gives_the_same_again(visit: Visit) -> None:
    page = begun(visit)
    page.select_option("#beside", "b")
    page.select_option("#decoder", "top_p")
    page.fill("#setting-p", "0.8")
    page.fill("#setting-temperature", "1.3")
    page.fill("#seed", "77")
    page.fill("#max_new_tokens", "40")
    write(page, "the <b>cat</b> & \u00e9")
    page.locator("#panes section").nth(1).locator(".token").nth(25).click()
    page.select_option("#way", "by")
    page.select_option("#layer", "1")
    until(page, "document.getElementById('layer').value === '1' && document.getElementById('most').textContent !== ''")
    before = bars(page)
    page.fill("#setting-p", "0.3")  # after it was written: the bars move
    until(page, "(before) => document.getElementById('bars').innerText !== before", before)
    until(page, "decodeURIComponent(location.hash).includes('\"p\":0.3')")
    shown = texts(page), bars(page), page.inner_text("#look-title"), page.inner_text("#most")
    assert shown[0][0].startswith("the <b>cat</b> & \u00e9") and shown[0][0] != shown[0][1]
    other = visit(page.url, 390)
    finished(other)
    until(other, "document.querySelector('#look-title').textContent !== ''")
    assert (texts(other), bars(other), other.inner_text("#look-title"), other.inner_text("#most")) == shown
    assert other.input_value("#setting-p") == "0.3" and other.input_value("#seed") == "77"
    assert linked(other) == linked(page) and "/" not in "".join(linked(page)["runs"])


def test_the_same_run_beside_itself_draws_the_same(visit: Visit) -> None:
    page = begun(visit)
    page.select_option("#beside", "a")
    write(page, "the cat")
    left, right = texts(page)
    assert left == right and len(left) > 50


def test_what_a_model_says_is_text(visit: Visit) -> None:
    page = begun(visit, 390)
    page.select_option("#run", "says")
    page.select_option("#decoder", "greedy")
    write(page, "x")
    assert texts(page) == [f"x{NASTY}"] and page.locator("main script, main img").count() == 0
    page.locator(".token").nth(4).click()
    until(page, "document.getElementById('look-title').textContent.includes('<sc')")
    assert page.is_hidden("#attention"), "it has none"
    write(page, NASTY)
    assert texts(page)[0].startswith(NASTY) and page.locator("main script, main img").count() == 0
    assert no_wider_than_a_phone(page)


def test_a_stopped_text_and_a_link_to_it(visit: Visit) -> None:
    page = begun(visit)
    page.fill("#max_new_tokens", "2000")
    page.fill("#prompt", "the cat")
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelectorAll('.token').length > 15")
    page.keyboard.press("Escape")
    finished(page)
    (shown,) = texts(page)
    (cut,) = linked(page)["turns"][0]["cut"]
    assert 5 < cut < 2000 and f"stopped after {cut} tokens" in page.inner_text("#panes")
    other = visit(page.url)
    finished(other)
    assert texts(other) == [shown] and linked(other) == linked(page)


def test_a_chat_and_a_link_to_it(visit: Visit) -> None:
    page = visit(width=390)
    page.select_option("#beside", "")
    page.select_option("#mode", "chat")
    page.fill("#max_new_tokens", "12")
    for number, line in enumerate(["hello", NASTY]):
        page.fill("#prompt", line)
        page.press("#prompt", "Enter")
        until(page, "(n) => document.querySelectorAll('.text .next').length === n", number + 1)
        finished(page)
    assert page.locator(".user").all_inner_texts() == ["hello", NASTY] and page.input_value("#prompt") == ""
    shown = texts(page)
    other = visit(page.url, 390)
    until(other, "document.querySelectorAll('.text .next').length === 2")
    finished(other)
    assert texts(other) == shown and no_wider_than_a_phone(other)
    other.click("#new")
    assert texts(other) == [] and other.locator(".user").count() == 0
    other.select_option("#run", "b")
    assert other.input_value("#mode") == "" and other.is_disabled("#mode option[value=chat]")


def test_mistakes_are_said_in_a_line(visit: Visit, site: str) -> None:
    page = begun(visit)
    page.fill("#setting-k", "0")
    page.fill("#prompt", "the cat")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#status.wrong")
    assert page.inner_text("#status").startswith("k=0: keeps no token") and texts(page) == []
    page.fill("#setting-k", "5")
    write(page, "the cat")
    assert len(texts(page)) == 1 and page.locator("#status.wrong").count() == 0
    for link, line in {
        page.url.replace("%22a%22", "%22gone%22"): "run=gone: is not served here",
        f"{site}#%7B": "This link is damaged: copy it again.",
        f"{site}#%": "This link is damaged: copy it again.",
    }.items():
        other = visit(link)
        other.wait_for_selector("#status.wrong")
        assert other.inner_text("#status") == line and texts(other) == []


def test_the_token_does_not_stay_in_the_address(browser: Any) -> None:
    address = address_of(playground_app([served("a", 1, chat=True)]), token="secret")
    own = address.removesuffix("?token=secret")
    seen: list[str] = []
    page = opened(browser, address, seen)
    until(page, "document.getElementById('decoder').options.length > 0")
    assert page.input_value("#mode") == "chat", "a model with a template begins with it"
    page.select_option("#mode", "")
    write(page, "the cat")
    shown = texts(page)
    assert own != address and page.url.startswith(f"{own}#") and "secret" not in page.url
    page.reload()
    finished(page)
    assert texts(page) == shown
    page.context.close()
    assert all(url.startswith(own) for url in seen)
