import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.commands.report import report
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.reporting.interactive import has_plotly
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.written_runs import MakeRun

FILES = {"report.html", "report.md", "report.csv", "curves.png", "best_so_far.png", "swept.png"}


@pytest.mark.slow
def test_real_runs(tiny: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summaries = {}
    for lr in (0.001, 0.01):
        for seed in (1, 2):
            name = f"outputs/sweep/lr={lr}-{seed}"
            summaries[name] = train(tiny(f"optimizer.lr={lr}", f"seed={seed}", f"run_dir='{tmp_path}/{name}'"))
    capsys.readouterr()
    answer = report(compose("report"))
    out = tmp_path / "outputs/report"
    assert answer["out"] == "outputs/report" and {path.name for path in out.iterdir()} == FILES
    assert "4 runs" not in capsys.readouterr().err
    json.dumps(answer, allow_nan=False)
    assert len(answer["runs"]) == 4
    for row in answer["runs"]:
        summary = summaries["outputs/sweep/" + row["run"]]
        assert row["val_loss"] == summary["val_loss"] and row["tokens"] == summary["tokens"] and row["seeds"] == 2
        assert (row["optimizer.lr"], row["seed"]) == tuple(map(float, row["run"].removeprefix("lr=").split("-")))
    with (out / "report.csv").open(newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == [row["run"] for row in answer["runs"]]
    assert (out / "report.html").read_text().count("data:image/png;base64,") == (0 if has_plotly() else 3)


@pytest.mark.slow
def test_where_it_goes(make_run: MakeRun, tmp_path: Path) -> None:
    for name in ("a/1", "b/2"):
        make_run(name)
    one, two = "runs/a", "runs/b"
    assert report(compose("report", [f"runs={one}", "pictures=false"]))["out"] == "runs/a/report"
    assert report(compose("report", [f"runs=[{one},{two}]", "pictures=false"]))["out"] == "runs/report"
    assert report(compose("report", [f"runs=[{one},{two}]", "pictures=false", "out=elsewhere"]))["out"] == "elsewhere"
    assert {path.name for path in Path("elsewhere").iterdir()} == {"report.html", "report.md", "report.csv"}
    assert report(compose("report", ["runs=runs/*/?", "pictures=false"]))["out"] == "runs/report"
    again = report(compose("report", ["runs=runs", "pictures=false"]))  # a report is no run
    assert [row["run"] for row in again["runs"]] == ["a/1", "b/2"]


def test_without_matplotlib_there_is_still_a_table(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run("a")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="^pictures=true: needs matplotlib"):
        report(compose("report", ["runs=runs"]))
    assert not Path("runs/report").exists()
    assert len(report(compose("report", ["runs=runs", "pictures=false"]))["runs"]) == 1


def test_nothing_asked() -> None:
    with pytest.raises(UserError, match=r"^runs=\[\]: is empty; "):
        compose("report", ["runs=[]"])
