import os
import time
from pathlib import Path

import pytest

from gptlab.errors import UserError
from gptlab.runs.reader import find_runs, read_run
from tests.written_runs import MakeRun


def test_every_run_below_once_in_natural_order(make_run: MakeRun, tmp_path: Path) -> None:
    for name in ("day/10-a", "day/9-a", "day/2-a", "other/x"):
        make_run(name)
    (tmp_path / "runs/latest").symlink_to("day/2-a")
    hidden = tmp_path / "runs/day/2-a/.hydra"
    hidden.mkdir()
    (hidden / "config.yaml").write_text("")
    runs = find_runs([str(tmp_path / "runs"), str(tmp_path / "runs/latest")])
    assert [run.name for run in runs] == ["day/2-a", "day/9-a", "day/10-a", "other/x"]
    assert [run.name for run in find_runs([str(tmp_path / "runs/latest")])] == ["2-a"]
    assert [run.name for run in find_runs(["runs/day/*0-?", "runs/*/9-*"])] == ["9-a", "10-a"]


def test_runs_share_what_they_have_alike(make_run: MakeRun) -> None:
    first, second, third = make_run("1", seed=1), make_run("2", seed=True), make_run("3", model__n_layer=3)
    runs = find_runs(["runs"])
    for run, path in zip(runs, (first, second, third), strict=True):
        alone = read_run(path, run.name)
        assert (run.config, run.summary, list(run.config)) == (alone.config, alone.summary, list(alone.config))
        assert run.settings == alone.settings
    assert runs[0].config["model"] is runs[1].config["model"] is not runs[2].config["model"]
    assert runs[2].config["model"]["n_layer"] == 3 and runs[0].config["model"]["n_layer"] == 2
    assert runs[1].config["seed"] is True and type(runs[0].config["seed"]) is int


@pytest.mark.parametrize(("name", "why"), [("nope", "no such directory; "), (".", "there is no run in it; ")])
def test_no_runs(name: str, why: str) -> None:
    with pytest.raises(UserError, match=f"^runs={name}: {why}"):
        find_runs([name])


@pytest.mark.parametrize(
    ("config", "summary", "status"),
    [
        ("model: {n_la", '{"status": "finished"}', "finished"),
        ("model: {n_la", None, "unreadable"),
        ("", None, "unreadable"),
        ("{}", None, "unknown"),
        ("- a list", '{"status": "fin', "unreadable"),
        ("seed: 1", "[1]", "unreadable"),
        ("seed: 1", '{"steps": "many"}', "unknown"),
    ],
)
def test_half_written_runs(config: str, summary: str | None, status: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config)
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    run = read_run(tmp_path, "r")
    assert run.status == status and run.tokens_per_step == 0 and run.tokenizer is None and run.data_hash is None
    assert run.figure("steps") is None


def test_how_long_a_running_run_has_been_silent(make_run: MakeRun) -> None:
    path = make_run("r", status="running")
    assert read_run(path, "r").silent < 60
    for file in path.glob("*.*"):
        os.utime(file, (time.time() - 5000, time.time() - 5000))
    assert read_run(path, "r").silent == pytest.approx(5000, abs=60)
