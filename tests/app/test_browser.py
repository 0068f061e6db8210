"""The page in a real browser: keys alone, a reload, two raters at once, and nothing that leaves the machine."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptlab.app.rating import rating_app
from tests.app.browser import address_of, in_browser, opened, painted
from tests.app.browser import browser as browser  # a fixture
from tests.app.test_rating import study_of

pytestmark = in_browser
KEYS = {"1": "left", "2": "right", "0": "tie", "ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[tuple[str, Any]]:
    """Serve a study in a thread; yields its address and the study."""
    monkeypatch.chdir(tmp_path)
    study = study_of(6, request.param)
    yield address_of(rating_app(study)), study


def began(browser: Any, address: str, name: str, seen: list[str], width: int = 390) -> Any:
    page = opened(browser, address, seen, width)
    page.keyboard.type(name)  # the field has the focus
    pressed(page, "Enter")
    assert page.locator("#answer").count() == 1
    return page


def pressed(page: Any, key: str) -> None:
    with page.expect_navigation():
        page.keyboard.press(key)
    painted(page)


@pytest.mark.parametrize("site", ["pairs"], indirect=True)
def test_pairs_by_keys_alone_by_two_raters(browser: Any, site: tuple[str, Any]) -> None:
    address, study = site
    seen: list[str] = []
    ann, bob = began(browser, address, "Ann", seen), began(browser, address, "Bob", seen, 1200)
    for key in KEYS:
        pressed(ann, key)
        pressed(bob, key)
    asked = ann.locator("input[name=question]").get_attribute("value")
    ann.reload()
    painted(ann)
    assert ann.locator("input[name=question]").get_attribute("value") == asked
    for _ in range(4):
        ann.keyboard.press("Tab")  # to the buttons, and by Enter
        ann.locator("button[value=tie]").focus()
        pressed(ann, "Enter")
    counts = Counter((each.rater, each.said) for each in study.answers())
    assert counts == {
        ("Ann", "left"): 2,
        ("Ann", "right"): 2,
        ("Ann", "tie"): 6,
        **{("Bob", said): 2 for said in KEYS.values()},
    }
    assert "<script>" in ann.locator(".prompt").inner_text() and ann.locator("main script").count() == 0
    assert all(url.startswith(address) for url in seen), seen
    wide = ann.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390, "nothing is cut off on a phone"


@pytest.mark.parametrize("site", ["rubric"], indirect=True)
def test_scores_by_keys_alone(browser: Any, site: tuple[str, Any]) -> None:
    address, study = site
    page = began(browser, address, "Ann", [])
    for key in ("4", "2", "Backspace", "5", "1"):  # the first criterion, the second; back to the first
        page.keyboard.press(key)
    pressed(page, "Enter")
    page.keyboard.press("3")
    page.keyboard.press("3")
    pressed(page, "Enter")
    assert [each.said for each in study.answers()] == [{"fluency": 5, "a b": 1}, {"fluency": 3, "a b": 3}]
