"""The table of a sweep on a cluster says what the files of its jobs say, as they come."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from gptlab.sweep.watch import watched
from tests.sweep.test_live import job, logs, rows_of
from tests.waiting import wait_until


@pytest.mark.slow
def test_jobs_are_found_as_they_begin_and_end(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=110, height=20, color_system=None)

    def drawn() -> list[list[str]]:
        return rows_of(screen.getvalue().split("\x1b[2K")[-1])

    def begin(num: int, status: str) -> None:
        made = job(num)
        (made.path / "summary.json").write_text(json.dumps({"status": status, "planned_steps": 100}))
        logs(made, "0.1,10,4.5,1000,", "0.1,10,,,4.25")
        (made.path / "job.json").write_text(json.dumps({"job": num, "overrides": made.overrides}))

    def row(num: int, status: str) -> list[str]:
        return [str(num), f"seed={num}", status, "10/100", "4.500", "4.250", "1,000"]

    with watched(tmp_path, console, every=0.01):
        wait_until(lambda: "waiting for the first job" in screen.getvalue(), 20, 0.02)
    begin(0, "finished")  # an earlier start of the sweep has run it
    with watched(tmp_path, console, every=0.01):
        begin(2, "running")
        begin(1, "running")
        wait_until(lambda: drawn() == [row(0, "finished"), row(1, "running"), row(2, "running")], 20, 0.02)
        assert "1 of 3 jobs have ended" in screen.getvalue()
        (tmp_path / "1-seed=1/job.json").write_text("{")  # is being written
        (tmp_path / "2-seed=2/summary.json").write_text('{"status": "failed", "planned_steps": 100}')
        time.sleep(0.1)
        (tmp_path / "1-seed=1/job.json").write_text('{"job": 1, "overrides": ["seed=1"]}')
        wait_until(lambda: drawn() == [row(0, "finished"), row(1, "running"), row(2, "failed")], 20, 0.02)
        begin(3, "failed")
        (tmp_path / "3-seed=3/job.json").write_text('{"job": 3, "overrides": ["seed=3"], "refused": "no"}')
        wait_until(lambda: drawn()[-1] == row(3, "refused"), 20, 0.02)
