"""Branches off a run's checkpoints with larger batches: what they are trained with, and how they go on after a stop."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptlab.commands import batch_branches
from gptlab.commands.batch import CriticalBatchConfig, batch
from gptlab.config import compose
from gptlab.errors import RunFailed, Stopped, UserError
from gptlab.optim.schedules import Cosine
from gptlab.runs.run_dir import RunDir
from gptlab.training.finish import not_finite
from gptlab.training.run import train
from tests.training.test_devices import losses
from tests.training.test_resume import Tiny, same

KEPT = ["checkpoint.every_n_steps=2", "checkpoint.keep_last=30", "logger.every_n_steps=1"]


def ask(*overrides: str) -> dict[str, Any]:
    config = compose("batch", list(overrides))
    assert isinstance(config, CriticalBatchConfig)
    return batch(config)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The overrides of all branches, which are trained in this process; `stop` instead of one ends the third."""
    asked: list[list[str]] = []

    def _train(overrides: list[str], log: Path) -> int:
        asked.append(overrides)
        if len(asked) == 3:
            return 130
        (resume,) = (each.partition("=")[2] for each in overrides if each.startswith("resume="))
        train(compose("train", overrides, run=RunDir.find_as("resume", resume.strip("'")).path))
        return 0

    monkeypatch.setattr(batch_branches, "_train", _train)
    return asked


@pytest.mark.slow
def test_branches_and_the_curve(
    tiny: Tiny, tmp_path: Path, trained: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the run's own batch a branch is the run itself; larger ones read as much, at a rate that grows as the root."""
    train(tiny(*KEPT, "schedule=constant", "budget.steps=22"))
    question = ["run=run", "steps=[2]", "factors=[4,2]", "tokens=2560", "out=branches"]  # 80 sequences: 5 steps of 16
    with pytest.raises(Stopped):
        ask(*question)
    assert len(trained) == 3 and not (tmp_path / "branches/critical_batch.png").exists()
    found = ask(*question)
    assert len(trained) == 4 and trained[2] == trained[3]  # what was finished is kept
    branches = tmp_path / "branches/step-2"
    assert same(tmp_path / "run", branches / "batch-4")
    (checkpoint,) = found["checkpoints"]
    at = {size: RunDir(branches / f"batch-{size}").summary() for size in (4, 8, 16)}
    assert checkpoint["losses"] == {str(size): summary["val_loss"] for size, summary in at.items()}
    assert {size: (each["steps"], each["tokens"]) for size, each in at.items()} == {
        size: (2 + 80 // size, 88 * 32) for size in at
    }
    rates = {size: losses(branches / f"batch-{size}", "optim/lr")[-1] for size in at}
    assert rates == pytest.approx({size: rates[4] * (size / 4) ** 0.5 for size in at})
    assert (checkpoint["tokens"], checkpoint["read"], checkpoint["batch"]) == (8 * 32, 80 * 32, 4)
    assert found["schedule"] == ([] if checkpoint["critical"] == 4 else [[8, checkpoint["critical"]]])
    assert (tmp_path / "branches/critical_batch.png").read_bytes().startswith(b"\x89PNG")
    assert "step 2, 16 sequences a step: loss" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^out=.+: holds branches off step 2 that read 80 sequences, not 96"):
        ask(*question[:-2], "tokens=3072", "out=branches")
    note = tmp_path / "branches/branches.json"
    whole = note.read_text()
    note.write_text(json.dumps({key: value for key, value in json.loads(whole).items() if key != "sequences"}))
    with pytest.raises(UserError, match=r"^out=.+: holds branches off another run, or with another power"):
        ask(*question)
    note.write_text(whole)
    with pytest.raises(UserError, match=r"^tokens=320: 320 tokens are 1 steps of 16 sequences.+; give 2560 or more"):
        ask(*question[:-2], "tokens=320", "out=new")
    with pytest.raises(UserError, match=r"^steps=5: is no step of a checkpoint that the run keeps: 2, 3, 4, 6"):
        ask("run=run", "steps=[5]", "out=new")
    assert not (tmp_path / "new").exists()


def test_the_rate_is_that_of_the_run_at_the_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch of the run has grown before, from 4 to 8; a failed branch is told in one line, and one that has diverged
    is no failure."""
    grows = ["schedule=cosine", "schedule.warmup_steps=1", "schedule.batch=[[8,8]]", "optimizer.lr=0.01"]
    train(tiny(*KEPT, *grows, "budget.steps=6"))  # steps of 4, 4, 8, 8, 8, 8
    trunk = batch_branches.trunk_of(RunDir(tmp_path / "run"))
    given = dict(each.split("=", 1) for each in batch_branches._overrides(trunk, 4, 16, 64, 0.5))
    expected = 0.01 * Cosine(warmup_steps=1)(6, 9)  # by the data: 24 of 4 each, of the last step's 32 and one more
    assert float(given["optimizer.lr"]) == pytest.approx(expected)  # for 4 sequences; the branch takes twice of it
    assert given["schedule.batch"] == "[[8,8],[24,16]]" and given["budget.steps"] == "8"

    said = "optimizer.lr=1: is too much; lower it"

    def _train(overrides: list[str], log: Path) -> int:
        log.write_text(f"error: {said}\n")
        return 1

    monkeypatch.setattr(batch_branches, "_train", _train)
    with pytest.raises(RunFailed, match=r"^batch: the branch .+ failed \(optimizer.lr=1: is too much; lower it\); "):
        ask("run=run", "steps=[4]", "factors=[2]", "tokens=2560", "out=out")
    said = str(not_finite(SimpleNamespace(data=SimpleNamespace(corpus=None)), 5))  # type: ignore[arg-type]
    found = ask("run=run", "steps=[4]", "factors=[2]", "tokens=2560", "out=out")
    assert found["checkpoints"][0]["losses"] == {"8": None, "16": None} and found["schedule"] == []
    said = capsys.readouterr().out
    assert "step 4, 16 sequences a step: diverged" in said and "nan" not in said
