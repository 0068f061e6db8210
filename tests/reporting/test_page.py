import base64
import gzip
import html
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gptlab.reporting import page
from gptlab.reporting.interactive import thinned
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


@pytest.fixture
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "has_plotly", lambda: False)


def held(text: str, name: str) -> bytes:
    """Return what a page holds in packed form."""
    found = re.search(rf'<script type="text/plain" id="{name}">([\w+/=]*)</script>', text)
    assert found
    return gzip.decompress(base64.b64decode(found[1]))


@pytest.mark.usefixtures("without_plotly")
def test_the_page_needs_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a", samples=SAMPLES, name="<i>a</script>", optimizer__lr="</i>")
    make_run("b", samples=SAMPLES.replace("sat", "ran"), sample_prompts=["the cat"], status="running")
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (1600).to_bytes(4) + bytes(9)
    page.write(tmp_path / "report.html", tabulate(find_runs(["runs"])), {"curves": png})
    text = (tmp_path / "report.html").read_text()
    assert "2 runs, 1 finished" in text and 'width="1000" src="data:image/png;base64,iVBORw0' in text
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text and text.count("<script") == text.count("</script>") == 2  # its own
    assert "<i>" not in text and "&lt;i&gt;a" in text and "&lt;/i&gt;" in text
    assert text.count("<details") == 2 and text.count("<details open>") == 1
    assert text.count("<b>the cat</b> sat") == text.count("<b>the cat</b> ran") == 4
    assert text.count("<b>a | &lt;b&gt;</b> &amp; ") == 4  # only one run has the prompt
    assert [text.count(f">step {step}<") for step in (3, 6, 9, 12, 15, 18)] == [3, 0, 3, 3, 0, 3]


@pytest.mark.usefixtures("without_plotly")
def test_what_the_page_draws(make_run: MakeRun, tmp_path: Path) -> None:
    for i, loss in enumerate([3.0, 2.0, 2.5]):
        make_run(f"{i}", loss, seed=i, optimizer__lr=0.1 if i else 0.2, trainer={"val_every_n_steps": i})
    page.write(tmp_path / "report.html", tabulate(find_runs(["runs"])), {})
    data = json.loads(held((tmp_path / "report.html").read_text(), "data"))
    assert data["groups"] == ["lr=0.1", "lr=0.2"] and data["means"] == [[2.25, 0.25, 2], [3.0, None, 1]]
    assert [run["name"] for run in data["runs"]] == ["lr=0.1, seed=1", "lr=0.1, seed=2", "lr=0.2, seed=0"]
    assert data["order"] == [2, 0, 1] and data["varied"] == {"optimizer.lr": "lr"}
    first = data["runs"][0]
    assert first["curves"]["val/loss"] == [[5, 10], [2.5, 2.0]] and first["curves"]["train/loss"] == [
        [5, 10],
        [3.0, 2.2],
    ]
    assert first["clock"] == [[5, 10], [2.5, 3.75]] and (first["tokens"], first["flops"]) == (128, 1000.0)
    assert first["stages"] == [[0, 0, 1]]
    assert first["settings"] == {"optimizer.lr": "0.1", "seed": "1", "trainer.val_every_n_steps": "1"}


def test_long_curves_are_thinned() -> None:
    points = [(float(i), float(-i)) for i in range(10_001)]
    kept = thinned(points)
    assert len(kept) == 200 and (kept[0], kept[-1]) == (points[0], points[-1])
    steps = {b[0] - a[0] for a, b in itertools.pairwise(kept)}
    assert steps <= {50.0, 51.0} and thinned(points[:200]) == points[:200]


CLICKS = """<script>addEventListener("load", () => setTimeout(() => {
  const names = () => all("tr.group:not(.hidden)", body).map((row) => row.dataset.group).join("");
  const said = [names()];
  const head = all("#runs th")[1];
  head.click(); head.click(); said.push(names());
  $("filter").value = "lr=0.2"; filter(); said.push(names());
  $("filter").value = ""; filter();
  const shown = () => all("tr.seed:not(.hidden)", body).length;
  said.push(shown()); body.querySelector("button.fold").click(); said.push(shown());
  said.push(all(".samples tr:not(.hidden)").length); $("none").click(); said.push(all(".samples tr:not(.hidden)").length);
  $("all").click();
  if (window.Plotly) {
    const y = () => $("curves").data.map((trace) => trace.y.length + ":" + trace.name);
    said.push(y());
    $("logy").click(); said.push($("curves").layout.yaxis.type);
    $("seeds").click(); said.push($("curves").data.length);
    said.push($("best").data[0].y, $("final").data.map((trace) => [trace.x, trace.y, trace.error_y?.array ?? trace.mode]));
  }
  said.push($("differ").textContent);
  document.title = JSON.stringify(said);
}, 1500))</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("plotly", [False, True])
def test_in_a_browser(plotly: bool, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if plotly:
        pytest.importorskip("plotly")
    monkeypatch.setattr(page, "has_plotly", lambda: plotly)
    for i, loss in enumerate([3.0, 2.0, 2.5]):
        make_run(f"{i}", loss, seed=i, optimizer__lr=0.1 if i else 0.2, samples=SAMPLES)
    make_run("3", 3.5, status="pruned", seed=3, optimizer__lr=0.3, samples=SAMPLES)
    path = tmp_path / "report.html"
    page.write(path, tabulate(find_runs(["runs"])), {})
    path.write_text(path.read_text().replace("</body>", CLICKS))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    flags += [f"--user-data-dir={tmp_path}/user", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run(["chromium", *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
    said = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))  # type: ignore[index]
    assert said[:7] == ["012", "102", "1", 0, 2, 8, 0]  # a pruned run has no place among the best
    assert said[-1] == "keylr=0.1, seed=1lr=0.2, seed=0optimizer.lr0.10.2seed10"
    if plotly:
        curves, log, seeds, best, final = said[7:12]
        assert curves[2:] == ["2:lr=0.1 (2 seeds)", "2:lr=0.2, seed=0", "2:lr=0.3, seed=3"] and (log, seeds) == (
            "log",
            4,
        )
        assert best == [3.0, 2.0, 2.0]
        assert final == [[[0.1, 0.2], [2.25, 3.0], [0.25, 0]], [[0.3], [3.5], "markers"]]
