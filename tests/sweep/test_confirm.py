"""The best of a sweep is run again with seeds that nobody has chosen it by."""

import json
import statistics
from pathlib import Path

import pytest

from gptlab.reporting.rows import tabulate
from gptlab.runs.reader import find_runs
from gptlab.sweep.confirm import best_of, told
from tests.conftest import tiny_overrides
from tests.forked import gptlab
from tests.written_runs import MakeRun


@pytest.mark.slow
def test_the_best_config_is_run_again(texts: str, tmp_path: Path) -> None:
    ask = ["-m", *tiny_overrides(texts), "optimizer.lr=1e-2,1e-5", "seed=7", "confirm=2"]
    done = gptlab("train", *ask, "hydra.sweep.dir=sweep", "json=true")
    answer = json.loads(done.stdout)
    found, chosen = answer["confirmed"], [run["val_loss"] for run in answer["runs"][:1]]
    assert len(answer["runs"]) == 2 and "optimizer.lr=0.01" in found["overrides"]
    assert not any(each.startswith("seed=") for each in found["overrides"])
    assert [run["seed"] for run in found["runs"]] == [8, 9]  # beyond those of the sweep
    fresh = [run["val_loss"] for run in found["runs"]]
    assert found["chosen_by"] == pytest.approx(statistics.fmean(chosen))
    assert found["score"] == pytest.approx(statistics.fmean(fresh))
    assert found["deviation"] == pytest.approx(statistics.stdev(fresh))
    line = f"the best again, with 2 fresh seeds: val loss {statistics.fmean(fresh):.4f}, which deviate by "
    assert line in done.stderr

    # a report counts the fresh seeds alone
    report = tabulate(find_runs(["sweep"]))
    assert report.rows[0].mean == pytest.approx(statistics.fmean(fresh)) and report.rows[0].seeds == 2
    assert not any("lucky" in note for note in report.notes)

    # once more: nothing is left to do, and the same is said
    once_more = json.loads(gptlab("train", "resume_sweep=sweep", "json=true").stdout)["confirmed"]
    assert once_more["score"] == found["score"] and len(once_more["runs"]) == 2


def test_the_best_is_that_of_the_mean_over_seeds(make_run: MakeRun, tmp_path: Path) -> None:
    for number, (lr, loss) in enumerate([(0.1, 2.0), (0.1, 3.0), (0.2, 2.4), (0.2, 2.2), (0.3, None)]):
        path = make_run(f"{number}", loss, "failed" if loss is None else "finished", seed=number, optimizer__lr=lr)
        (path / "job.json").write_text(
            json.dumps({"job": number, "overrides": [f"optimizer.lr={lr}", f"seed={number}"]})
        )
    best = best_of(tmp_path / "runs")
    assert best is not None and sorted(best.scores) == [2.2, 2.4] and best.overrides == ["optimizer.lr=0.2"]
    (tmp_path / "none").mkdir()
    assert best_of(tmp_path / "none") is None
    found = {"search_metric": "val/loss", "score": None, "deviation": None, "chosen_by": 2.3, "runs": []}
    assert told(found) == "the best again, with 0 fresh seeds: val loss -; it was chosen with 2.3000"
