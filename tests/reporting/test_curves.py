import math

import numpy as np
import pytest

from gptlab.model.config import GPTConfig
from gptlab.planning.flops import flops_per_token
from gptlab.reporting.curves import Points, read_curves
from gptlab.runs.reader import read_run
from tests.written_runs import MODEL, MakeRun

ROWS = ["5,3.0,256,,", "6,,,2.5,1.25", "10,2.2,512,,", "12,,,2.0,1.0"]  # 4 x 32 = 128 tokens a step


def test_steps_tokens_flops_and_time(make_run: MakeRun) -> None:
    """5 steps of 128 tokens at 256 tokens/s take 2.5 s; the next 5 at 512 take 1.25 s, and so on from there."""
    curves = read_curves(read_run(make_run("r", rows=ROWS), "r"))
    assert curves.over("steps", "val/loss") == ([6, 12], [2.5, 2.0])
    assert curves.over("tokens", "val/loss") == ([6 * 128, 12 * 128], [2.5, 2.0])
    assert curves.over("flops", "val/loss")[0] == [6 * 128 * 1000, 12 * 128 * 1000]
    np.testing.assert_allclose(curves.over("seconds", "val/loss")[0], [2.5 + 0.25, 2.5 + 1.25 + 0.5])
    np.testing.assert_allclose(curves.over("seconds", "train/loss")[0], [2.5, 3.75])
    assert curves.steps == 12 and curves.last("val/loss") == 2.0 and curves.last("no such") is None


def test_tokens_and_time_of_a_batch_that_grows(make_run: MakeRun) -> None:
    """Five steps of 4 sequences and then of 8, of 32 tokens each: 640, and 256 a step; at the speeds of the log."""
    grows = {"schedule": {"batch": [[18, 8]]}, "summary": {"steps": 12, "tokens": 20 * 32 + 7 * 256}}
    curves = read_curves(read_run(make_run("r", rows=ROWS, **grows), "r"))
    assert curves.over("tokens", "val/loss")[0] == [640 + 256, 640 + 7 * 256]
    np.testing.assert_allclose(curves.over("seconds", "val/loss")[0], [2.5 + 0.5, 2.5 + 2.5 + 1.0])
    bad = read_run(make_run("s", rows=ROWS, schedule={"batch": [[18, "x"]]}), "s")
    assert read_curves(bad).over("tokens", "val/loss")[0] == [6 * 128, 12 * 128]


def test_a_running_run_s_flops_are_its_model_s(make_run: MakeRun) -> None:
    curves = read_curves(read_run(make_run("r", status="running", rows=ROWS), "r"))
    assert curves.over("flops", "val/loss")[0][0] == 6 * 128 * flops_per_token(GPTConfig(**MODEL))
    strange = read_curves(read_run(make_run("s", status="running", rows=ROWS, model__no_such_field=1), "s"))
    assert strange.over("flops", "val/loss") == ([], [])


def test_steps_that_came_again_and_values_that_are_none(make_run: MakeRun) -> None:
    rows = ["5,3.0,256,,", "10,2.2,512,,", "5,2.9,256,,", "15,nan,512,,", "15,,,inf,", "20,x,512,,", ",1,2,,"]
    curves = read_curves(read_run(make_run("r", rows=rows), "r"))
    assert curves.over("steps", "train/loss") == ([5, 10], [2.9, 2.2])
    assert curves.over("steps", "val/loss") == ([], []) and curves.last("val/loss") == math.inf


def test_a_file_cut_short_anywhere(make_run: MakeRun) -> None:
    path = make_run("r", rows=ROWS)
    whole = (path / "metrics.csv").read_bytes()
    most = 0
    for n in range(len(whole) + 1):
        (path / "metrics.csv").write_bytes(whole[:n] + b"\0" * (n % 3))
        points = list(read_curves(read_run(path, "r")).metrics.get("train/loss", []))
        assert points in ([], [(5, 3.0)], [(5, 3.0), (10, 2.2)])
        most = max(most, len(points))
    assert most == 2


def test_no_speed_no_time(make_run: MakeRun) -> None:
    curves = read_curves(read_run(make_run("r", rows=["5,3.0,,,"]), "r"))
    assert math.isnan(curves.seconds_at([5])[0]) and curves.over("seconds", "train/loss") == ([], [])
    path = make_run("s")
    (path / "metrics.csv").unlink()
    assert read_curves(read_run(path, "s")).steps == 0


@pytest.mark.parametrize("step", [1, 5, 7, 10, 30])
def test_time_grows_by_tokens_over_speed(make_run: MakeRun, step: int) -> None:
    speeds = [256.0] * 5 + [512.0] * 25
    expected = sum(128 / speed for speed in speeds[:step])
    assert read_curves(read_run(make_run("r", rows=ROWS), "r")).seconds_at([step])[0] == pytest.approx(expected)


def test_points_are_by_step_and_share_their_steps() -> None:
    first = Points({10: 1.0, 2: 3.5})
    second, third = Points({2: 0.5, 10: float("nan")}, [first]), Points({2: 1.0}, [first])
    assert list(first) == first[:] == [(2, 3.5), (10, 1.0)] and first[-1] == (10, 1.0) and len(first) == 2
    assert second.steps is first.steps and third.steps is not first.steps and list(third) == [(2, 1.0)]
    assert not Points({})
