import json
import os
from datetime import datetime
from pathlib import Path

from gptlab.runs.origin import started, swept
from gptlab.runs.reader import read_run
from tests.written_runs import MakeRun


def job(path: Path, overrides: object) -> None:
    (path / "job.json").write_text(json.dumps({"job": 1, "overrides": overrides}))


def test_what_a_sweep_has_varied(make_run: MakeRun) -> None:
    first, second = make_run("s/0-a"), make_run("s/1-b")
    job(first, ["optimizer.lr=0.1", "+data.new=x=y", "budget.steps=3"])
    job(second, ["optimizer.lr=0.2", "+data.new=z", "budget.steps=3"])
    assert swept([read_run(first, "0")]) == [{"optimizer.lr": "0.1", "data.new": "x=y"}]
    damaged, alone = make_run("t/0-a"), make_run("u")
    job(damaged, 7)
    assert swept([read_run(damaged, "0"), read_run(alone, "u")]) == [{}, {}]


def test_when_a_run_was_started(make_run: MakeRun) -> None:
    path = make_run("2026-11-26/12-30-10-nano")
    os.utime(path / "config.yaml", (5.0, 5.0))
    assert started(read_run(path, "a")) == datetime(2026, 11, 26, 12, 30, 10).timestamp()
    for second in (1795666159, 1795666100, 1795999999):  # a resumed run has several
        (path / f"events.out.tfevents.{second}.host.1.0").touch()
    assert started(read_run(path, "a")) == 1795666100
    (path / "summary.json").write_text(json.dumps({"status": "running", "started": 12.5}))
    assert started(read_run(path, "a")) == 12.5
    other = make_run("b")
    os.utime(other / "config.yaml", (7.0, 7.0))
    assert started(read_run(other, "b")) == 7.0
