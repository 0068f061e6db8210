import re
from pathlib import Path

import pytest

from gptlab.reporting import page
from gptlab.reporting.rows import tabulate
from gptlab.runs.reader import find_runs, read_run
from tests.written_runs import MakeRun

SAMPLES = "".join(
    f"## step {step}\n\n    the cat sat\n    \n    ## step 7\n    {step}\n\n    a | <b> & {step}\n\n"
    for step in (3, 6, 9, 12, 15, 18)
)


def test_samples_are_read_back(make_run: MakeRun) -> None:
    found = page.read_samples(read_run(make_run("a", samples=SAMPLES + "## step 21\n\n    the c"), "a"))
    assert list(found) == [3, 6, 9, 12, 15, 18, 21]
    assert found[6] == ["the cat sat\n\n## step 7\n6", "a | <b> & 6"]
    assert found[21] == ["the c"]
    assert page.read_samples(read_run(make_run("b"), "b")) == {}


@pytest.mark.parametrize(
    ("steps", "kept"), [([1], [1]), ([1, 2, 3, 4], [1, 2, 3, 4]), (list(range(10)), [0, 3, 6, 9]), ([], [])]
)
def test_some_checkpoints_with_the_first_and_the_last(steps: list[int], kept: list[int]) -> None:
    assert page.spread(steps) == kept


def test_the_page_needs_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", samples=SAMPLES, name="<i>a", optimizer__lr="</i>")
    make_run("b", samples=SAMPLES.replace("sat", "ran"), sample_prompts=["the cat"], status="running")
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1600).to_bytes(4) + bytes(9)
    page.write(tmp_path / "report.html", tabulate(find_runs(["runs"])), {"curves": png})
    text = (tmp_path / "report.html").read_text()
    assert "2 runs, 1 finished" in text and 'width="1000" src="data:image/png;base64,iVBORw0' in text
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text and "<script" not in text
    assert "<i>" not in text and "&lt;i&gt;a" in text and "&lt;/i&gt;" in text
    assert text.count("<details") == 2 and text.count("<details open>") == 1
    assert text.count("<b>the cat</b> sat") == text.count("<b>the cat</b> ran") == 4
    assert text.count("<b>a | &lt;b&gt;</b> &amp; ") == 4  # only one run has the prompt
    assert [text.count(f">step {step}<") for step in (3, 6, 9, 12, 15, 18)] == [3, 0, 3, 3, 0, 3]
