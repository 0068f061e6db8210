"""The verb `band`: made of runs over seeds, found by the next run of the recipe, and refused for runs that are no seeds."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptlab import plugins
from gptlab.commands.band import band
from gptlab.commands.main import main
from gptlab.commands.report import report
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.reader import read_run
from gptlab.training.config import TrainConfig
from gptlab.training.replication import replication
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.written_runs import MakeRun, make_run

Tiny = Callable[..., TrainConfig]
FILE = "conf/experiment/tiny.band.json"
__all__ = ["make_run"]


def made(*more: str) -> dict[str, Any]:
    return band(compose("band", ["text=some words", f"out={FILE}", *more]))


@pytest.fixture
def recipe(tiny: Tiny, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The recipe of three runs, run-1 to run-3, in a folder with a conf of its own."""
    for seed in (1, 2, 3):
        train(tiny(f"seed={seed}", f"run_dir={tmp_path}/run-{seed}"))
    (tmp_path / "conf").mkdir()
    monkeypatch.setattr(plugins, "_conf", [tmp_path / "conf"])
    monkeypatch.setenv(plugins.INHERITED, "{}")  # what the command tells its children is gone after the test
    return shlex.join(tiny_overrides(texts))


@pytest.mark.slow
def test_the_next_run_of_a_recipe_says_where_it_lies(
    recipe: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "replication" not in capsys.readouterr().out
    found = made("runs=[run-*]", f"recipe={recipe}")
    said = capsys.readouterr().out.splitlines()
    assert (
        said[-1] == f"the band of 3 seeds is {FILE}"
        and said[0].startswith("step 3: bits/byte mean ")
        and "(95%)" in said[0]
    )
    for seed in (1, 2, 3):  # as an earlier version wrote it, which had fewer settings
        path = tmp_path / f"run-{seed}/config.yaml"
        path.write_text(
            "".join(line for line in path.read_text().splitlines(True) if "cautious_weight_decay" not in line)
        )
    again = made("runs=[run-*]", f"recipe={recipe}", "out=again.band.json")
    assert again["validations"] == found["validations"]
    capsys.readouterr()
    runs = [read_run(tmp_path / f"run-{seed}", "") for seed in (1, 2, 3)]
    ends = np.array([run.summary["val_bits_per_byte"] for run in runs])
    last = found["validations"][-1]
    assert [at["step"] for at in found["validations"]] == [3, 6] and found["seeds"] == [1, 2, 3]
    half = 4.302652729911275 * ends.std(ddof=1) * np.sqrt(4 / 3)  # Student's t of 2 degrees of freedom at 0.975
    np.testing.assert_allclose([last["low"], last["high"]], [ends.mean() - half, ends.mean() + half], rtol=1e-9)
    assert str(tmp_path) not in json.dumps(json.loads(Path(FILE).read_text())["config"])

    summary = train(tiny("seed=4", f"run_dir={tmp_path}/run-4"))
    assert summary is not None
    where = summary["replication"]
    assert where["inside"] == (last["low"] <= summary["val_bits_per_byte"] <= last["high"])
    assert (where["text"], where["seeds"], where["step"], len(where["validations"])) == ("some words", 3, 6, 2)
    assert json.loads((tmp_path / "run-4/summary.json").read_text())["replication"] == where
    assert "replication: val " in capsys.readouterr().out

    curve = tmp_path / "run-4/metrics.csv"
    whole, first = curve.read_text(), where["validations"][0]["val_bits_per_byte"]
    assert str(first) in whole
    curve.write_text(whole.replace(str(first), "x"))  # a damaged cell does not keep a run from ending well
    damaged = replication(tmp_path / "run-4", summary)
    assert damaged is not None and [each["step"] for each in damaged["validations"]] == [6]
    curve.write_text(whole)

    loud = train(tiny("seed=5", f"run_dir={tmp_path}/run-5", "logger=none"))  # no curve: its end alone
    assert loud is not None and len(loud["replication"]["validations"]) == 1
    other = train(tiny("seed=4", "optimizer.lr=0.5", f"run_dir={tmp_path}/other"))
    assert other is not None and "replication" not in other
    assert capsys.readouterr().out.count("replication: ") == 1
    assert report(compose("report", ["runs=[run-4,run-5,other]", "pictures=false", "out=shown"]))["runs"]


@pytest.mark.slow
def test_a_band_is_made_of_seeds_of_one_recipe(
    recipe: str, tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny("seed=4", "optimizer.lr=0.5", f"run_dir={tmp_path}/other"))
    for asked, why in {
        "runs=[run-1,other]": "runs=other: differs from run-1 in optimizer.lr",
        "runs=[run-1,run-1]": "runs=run-1: has the seed 1 of another one",
        "runs=[run-1]": r"runs=\['run-1'\]: is less than two",
    }.items():
        with pytest.raises(UserError, match=why):
            made(asked, f"recipe={recipe}")
    with pytest.raises(UserError, match=r"recipe=.*: has budget.steps=7, and run-1 has 6; give what the runs were"):
        made("runs=[run-*]", f"recipe={recipe} budget.steps=7")
    with pytest.raises(UserError, match=r"recipe=.*: has .*, and run-1 has "):
        made("runs=[run-*]")
    with pytest.raises(
        UserError, match="recipe=nosuch=1: Could not override 'nosuch'.; give what is typed after gptlab train"
    ):
        made("runs=[run-*]", "recipe=nosuch=1")
    with pytest.raises(UserError, match="recipe='a: No closing quotation"):
        made("runs=[run-*]", "recipe='a")
    asked = ["text=words", f"out={FILE}", "runs=[run-1,run-2]"]
    assert main(["band", *asked, "recipe=experiment=none"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: recipe=experiment=none: ")
    assert not Path(FILE).exists()
    for seed, step in ((1, 3), (2, 6)):  # no validation that both have
        path = tmp_path / f"run-{seed}/metrics.csv"
        path.rename(path.with_suffix(".kept"))
        summary = json.loads((tmp_path / f"run-{seed}/summary.json").read_text())
        (tmp_path / f"run-{seed}/summary.json").write_text(json.dumps({**summary, "steps": step}))
    with pytest.raises(UserError, match=r"^runs=.+: have no validation in common at which all are finite; name runs"):
        made("runs=[run-1,run-2]", f"recipe={recipe}")
    assert not Path(FILE).exists()
    for seed in (1, 2):
        (tmp_path / f"run-{seed}/metrics.kept").rename(tmp_path / f"run-{seed}/metrics.csv")
    made("runs=[run-*]", f"recipe={recipe}")
    with pytest.raises(UserError, match=f"out={FILE}: exists already; give a new file"):
        made("runs=[run-*]", f"recipe={recipe}")


def test_runs_that_tell_no_bits_per_byte(make_run: MakeRun, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        make_run(f"{seed}", status="failed", seed=seed)
    assert main(["band", "text=words", f"out={FILE}", "runs=[runs/1,runs/2]"]) == 2
    assert capfd.readouterr().err.startswith(
        "error: runs=runs/1: is no finished run with bits per byte (failed); name "
    )
