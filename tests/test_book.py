"""The page on the textbooks prints what it says, and that is what the books print."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # GPT-2 124M, untrained

PAGE = (ROOT / "docs/book.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", PAGE, re.DOTALL)
STORY = "the-verdict.txt"

# as Raschka prints them in chapters 4 and 5, and Jurafsky & Martin in chapters 3 and 10
OF_THE_BOOKS = [
    "-9.5042 -10.3796 -11.3677 -11.4798 -9.7764 -12.2561 mean -10.7940",
    "perplexity 48,726",
    "[34245, 5139, 2492, 25405, 17434, 17853, 5308, 3398, 13174, 43071]",
    "top_k = 3    0.0615       -       -  0.5775       -       -       -  0.3610       -",
    "73 x closer, 582 x forward, 2 x inches, 343 x toward",
    "digits: 10.00",
    "colours: 3.00 and 1.89",
    "horses: 2.00 bits, perplexity 4.00",
    "1 beam: yes yes, 0.20\n2 beams: ok ok, 0.28",
    "163,009,536, tied 124,412,160",
    "621.83",
    "N = 174 billion",
    "20,479 characters, 5,145 tokens; held out 512: loss 10.9811",
]


def check(blocks: list[tuple[str, str]]) -> None:
    """Run snippets in their order, in one namespace, and compare all that each prints with the page."""
    names: dict[str, Any] = {}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/book.md", "exec"), names)
        assert printed.getvalue() == shown, code


def test_the_page_prints_what_it_says() -> None:
    blocks = [block for block in BLOCKS if STORY not in block[0]]
    assert len(blocks) == PAGE.count("```python") - 1  # none is missed by the pattern
    check(blocks)


@pytest.mark.usefixtures("gpt2_cache")
def test_the_story_of_the_page(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / STORY).write_bytes((real_data / STORY).read_bytes())
    imports = [line for code, _ in BLOCKS for line in code.splitlines() if re.match("import|from", line)]
    check([("\n".join(imports), ""), *(block for block in BLOCKS if STORY in block[0])])


@pytest.mark.parametrize("text", OF_THE_BOOKS)
def test_the_books_print_the_same(text: str) -> None:
    assert any(text in shown for _, shown in BLOCKS)
