"""Jobs of a sweep that share the first steps of the one with the largest budget."""

from pathlib import Path
from typing import Any

import pytest

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.runs.config_file import read_config
from gptlab.sweep.branches import share_trunks
from gptlab.sweep.job import Job, jobs_in
from gptlab.sweep.launcher import following
from gptlab.training.config import TrainConfig
from tests.conftest import tiny_overrides

LADDER = ["schedule=wsd", "schedule.warmup_steps=1", "schedule.decay_share=0.25", "branch=true"]


def job(number: int, *overrides: str) -> tuple[Job, TrainConfig]:
    path = Path(f"sweep/{number}")
    config = compose("train", [*LADDER, *overrides, f"run_dir={path}"])
    made = Job(path, number, list(overrides))
    made.prepare(config)
    return made, config


def test_jobs_that_differ_in_the_budget_alone_share_a_trunk() -> None:
    asked = [["seed=1", "budget.steps=20"], ["seed=1", "budget.steps=80"], ["seed=1", "budget.steps=40"]]
    asked += [
        ["seed=2", "budget.steps=40"],
        ["seed=1", "budget.tokens=40"],
        ["seed=1", "budget.steps=10", "branch=false"],
    ]
    jobs = [job(number, *overrides) for number, overrides in enumerate(asked)]
    share_trunks(jobs)
    assert [each.trunk and each.trunk.num for each, _ in jobs] == [1, None, 1, None, None, None]
    horizons = [read_config(each.path / "config.yaml")["checkpoint"]["horizons"] for each, _ in jobs]
    assert horizons == [[], [20.0, 40.0], [], [], [], []]


def test_a_branch_waits_until_its_trunk_has_ended() -> None:
    trunk, branch, other = (Job(Path(str(i)), i, []) for i in range(3))
    branch.trunk = trunk
    waiting: list[Any] = [(branch, None), (trunk, None), (other, None)]
    assert following(waiting, []) == (trunk, None)
    assert following([waiting[0], waiting[2]], [trunk]) == (other, None)
    assert following(waiting[:1], [trunk]) is None
    assert following(waiting[:1], []) == (branch, None)


@pytest.mark.slow
def test_a_ladder_is_one_command(texts: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The branch begins at its trunk's checkpoint; one that was killed while it began is run again, and no other is."""
    steps = ["budget.steps=8,16", "trainer.val_every_n_steps=16", "hydra.sweep.dir=sweep"]
    assert main(["train", "-m", *tiny_overrides(texts), *LADDER, *steps, "json=true"]) == 0
    branch, trunk = (each.result() for each in jobs_in(Path("sweep")))
    assert (branch["steps"], branch["branch_of"], trunk["steps"]) == (8, trunk["run_dir"], 16)
    assert "going on after step 6" in (Path(branch["run_dir"]) / "job.log").read_text()
    (Path(branch["run_dir"]) / "summary.json").unlink()
    assert main(["train", "resume_sweep=sweep", "json=true"]) == 0
    again, same = (each.result() for each in jobs_in(Path("sweep")))
    assert same == trunk and again["started"] > branch["started"]
    assert {key: again[key] for key in ("val_loss", "branch_of", "steps")} == {
        key: branch[key] for key in ("val_loss", "branch_of", "steps")
    }
