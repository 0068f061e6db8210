"""The table of a running sweep says what the files of its jobs say, and times by hand."""

import io
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from gptlab.sweep.job import Job
from gptlab.sweep.live import TAIL, Board, last_values

HEAD = "optim/lr,step,train/loss,train/tokens_per_second,val/loss\n"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(num: int, planned: int | None = 100, of: str | None = None) -> Job:
    path = Path(f"{num}-{of or f'seed={num}'}")
    path.mkdir()
    (path / "config.yaml").write_text(yaml.safe_dump({"search_metric": "val/loss"}))
    (path / "summary.json").write_text(json.dumps({"status": "running", "planned_steps": planned}))
    return Job(path, num, [f"seed={num}"])


def logs(of: Job, *rows: str) -> None:
    (of.path / "metrics.csv").write_text(HEAD + "".join(f"{row}\n" for row in rows))


def board(jobs: list[Job], terminal: bool = True, width: int = 110) -> tuple[Board, Clock, io.StringIO]:
    screen, clock = io.StringIO(), Clock()
    console = Console(file=screen, force_terminal=terminal, width=width, height=20, color_system=None)
    return Board(jobs, console, clock), clock, screen


def test_jobs_that_run_wait_and_have_ended() -> None:
    """Two places. Job 1 does ten steps in 20 s and has 80 left: 160 s; jobs 2 and 3 come after it and after job 0."""
    jobs = [job(num) for num in range(4)]
    shown, clock, screen = board(jobs)
    with shown.shown():
        for each in jobs[:2]:
            shown.start(each)
        clock.now += 100
        logs(jobs[0], "0.1,100,2.5,2000,", "0.1,100,,,2.25")
        shown.end(jobs[0], "finished")
        logs(jobs[1], "0.1,10,4.5,1000,", "0.1,10,,,4.25")
        shown.update()
        clock.now += 20
        logs(jobs[1], "0.1,10,4.5,1000,", "0.1,10,,,4.25", "0.1,20,4.125,12345.6,")
        shown.update()
        assert shown.running[jobs[1]].left(clock.now) == pytest.approx(160)
        # job 1 takes 120 + 160 s, and job 0 took 100: 190 on average; job 2 begins after 160 s, in the only place
        assert shown.left(clock.now) == pytest.approx(160 + 190 + 190)
        drawn = screen.getvalue().split("\x1b[2K")[-1]
    assert rows_of(drawn) == [
        ["0", "seed=0", "finished", "100/100", "2.500", "2.250", "2,000"],
        ["1", "seed=1", "running", "20/100", "4.125", "4.250", "12,346", "0:02:40"],
        ["2", "seed=2", "waiting"],
        ["3", "seed=3", "waiting"],
    ]
    assert "1 of 4 jobs have ended · 0:09:00 left" in drawn


def rows_of(drawn: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in drawn.splitlines() if re.match(r"\s*\d+  ", line)]


def test_eighty_columns_show_the_status_and_what_is_swept() -> None:
    jobs = [job(num, of="optimizer.lr=0.001,model=micro") for num in (0, 11)]
    shown, clock, screen = board(jobs, width=80)
    with shown.shown():
        shown.start(jobs[1])
        clock.now += 100
        logs(jobs[1], "0.1,10,4.5,1000,", "0.1,10,,,4.25")
        shown.update()
        drawn = screen.getvalue().split("\x1b[2K")[-1]
    (waiting, running) = rows_of(drawn)
    assert waiting[2] == "waiting" and running[2:] == ["running", "10/100", "4.500", "4.250", "1,000"]
    assert running[1].startswith("optimizer.lr=0.0") and running[1].endswith("…")
    assert all(len(line.rstrip()) <= 80 for line in drawn.splitlines() if "optimizer" in line)


def test_a_log_has_lines_once_a_minute() -> None:
    jobs = [job(0), job(1, planned=None)]
    shown, clock, log = board(jobs, terminal=False)
    with shown.shown():
        for each in jobs:
            shown.start(each)
        for step in range(10, 90, 10):
            clock.now += 10
            logs(jobs[0], f"0.1,{step},3.5,500,")
            shown.update()
    assert log.getvalue().splitlines() == [
        "job 0: step 60/100 · loss 3.500 · 500 tokens/s · 0:00:40 left",
        "0 of 2 jobs have ended",  # nothing is known of job 1
    ]


def test_a_sweep_of_hundreds_fits_on_the_screen() -> None:
    jobs = [job(num) for num in range(200)]
    shown, clock, screen = board(jobs)
    with shown.shown():
        for each in jobs[:100]:
            shown.start(each)
            shown.end(each, "failed")
        shown.start(jobs[150])
        clock.now += 2
        shown.update()
        drawn = screen.getvalue()
    assert "150" in drawn and "100 of 200 jobs have ended" in drawn
    assert len(drawn.splitlines()) <= 20


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (HEAD + "0.1,7,2.5,,\n0.1,8,1.", (7, {"train/loss": 2.5})),  # the last line is not there yet
        (HEAD, (0, {})),
        ("", (0, {})),
        ("no,such,table\n1,2,3\n", (0, {})),
        (HEAD + "0.1,x,nothing,,\n", (0, {})),
        (HEAD + "".join(f"0.1,{step},{step / 4},,\n" for step in range(20_000)), (19_999, {"train/loss": 19_999 / 4})),
        (HEAD + '0.1,3,"2.5,,\n', (3, {})),
        ("\0" * (TAIL + 5) + "\n\0\n", (0, {})),
    ],
    ids=["half a line", "no row", "empty", "another table", "no numbers", "a long one", "an open quote", "zeros"],
)
def test_the_last_values_of_a_file_that_is_being_written(content: str, found: tuple[int, dict[str, float]]) -> None:
    path = Path("metrics.csv")
    path.write_text(content)
    assert last_values(path, ["train/loss", "val/loss"]) == found
    assert last_values(Path("none.csv"), ["train/loss"]) == (0, {})
