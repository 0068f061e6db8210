import re
from pathlib import Path

from rich.console import Console

from gptlab.metrics import shown_in
from gptlab.reporting.frontier import frontier_table, write_frontier_page


def row(decoder: str, **figures: float | None) -> dict[str, object]:
    return {"decoder": decoder, **dict.fromkeys((each.quantity for each in shown_in("frontier")), None), **figures}


def test_texts_without_tokens_have_no_point(tmp_path: Path) -> None:
    """A decoder whose texts are empty has no perplexity: it is in the table, and not in the picture."""
    rows = [row("a<b>", perplexity=3.0, distinct_2=0.5, longest_copy=1200), row("stop=[x]")]
    write_frontier_page(tmp_path / "page.html", rows)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<circle") == 1 and "a&lt;b&gt;" in page and "<b>" not in page
    write_frontier_page(tmp_path / "none.html", rows[1:])
    assert "<svg" not in (tmp_path / "none.html").read_text()


def test_square_brackets_are_text() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(frontier_table([row("stop=[red]", longest_copy=1200), row("stop=[/x]")]))
    assert "stop=[red]" in captured.get() and "stop=[/x]" in captured.get() and "1,200" in captured.get()


def test_up_and_right_is_better(tmp_path: Path) -> None:
    rows = [row("bad", perplexity=30.0, distinct_2=0.2), row("good", perplexity=3.0, distinct_2=0.8)]
    write_frontier_page(tmp_path / "page.html", rows)
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', (tmp_path / "page.html").read_text())
    bad, good = sorted((float(x), float(y)) for x, y in found)
    assert good[0] > bad[0] and good[1] < bad[1]  # of a screen, the top is 0


def test_the_page_has_settings_and_texts(tmp_path: Path) -> None:
    sample = {"prompt": "the <cat>", "text": " & <script>sat</script>\x1b"}
    result = {"decoder": "TopK(temperature=1.0, k=<5>)", "samples": [sample], "overrides": ["seed=3"]}
    write_frontier_page(tmp_path / "page.html", [row("top_k")], [result])
    page = (tmp_path / "page.html").read_text()
    assert "TopK(temperature=1.0, k=&lt;5&gt;)" in page and "seed=3" in page and "script-src" not in page
    assert "<b>the &lt;cat&gt;</b> &amp; &lt;script&gt;sat&lt;/script&gt;\\x1b</p>" in page
