"""Continued pretraining: it begins at the loss of its source, replays old text, and scores old and new by themselves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.training.test_resume import require_equal_after_a_kill, rows

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def source(tiny: Tiny, tmp_path: Path) -> Path:
    """A run of some steps, and other text beside it."""
    train(tiny("budget.steps=20", "optimizer.lr=0.01", f"run_dir={tmp_path}/source"))
    (tmp_path / "new").mkdir()
    for i in range(30):
        (tmp_path / f"new/{i}.txt").write_text(f"{i} " + "0123456789 " * 9)
    return tmp_path / "source"


NEW = ["init_from=source", "experiment=continue", "data.files=[new/*.txt]", "logger=csv", "budget.steps=9"]


@pytest.mark.slow
def test_it_begins_at_the_loss_of_its_source(source: Path, tiny: Tiny, tmp_path: Path) -> None:
    """Before the first step, on all of the held-out text and on both parts of it, in nats and in bits per byte."""
    summary = train(tiny(*NEW, "data.replay=0.25", "data.val_fraction=0.2", "trainer.val_every_n_steps=3"))
    first, *later = [row for row in rows(tmp_path / "run") if "val/loss" in row]
    assert first["step"] == "0"
    old = evaluate(compose("evaluate", ["run=source"]))
    new = evaluate(compose("evaluate", ["run=source", "data=text", "data.files=[new/*.txt]", "data.val_fraction=0.2"]))
    for part, expected in {"old": old, "new": new}.items():
        for name in ("loss", "bits_per_byte"):
            assert float(first[f"val/{part}/{name}"]) == pytest.approx(expected[name], abs=1e-5)
    assert summary is not None
    assert float(later[-1]["val/new/loss"]) < float(first["val/new/loss"])
    assert summary["val_old_loss"] == pytest.approx(float(later[-1]["val/old/loss"]))
    run = compose("train", run=tmp_path / "run").data
    assert (run.weights, run.by_part) == ({"new": 0.75, "old": 0.25}, True)
    assert run.parts["old"].files == compose("train", run=source).data.files


@pytest.mark.slow
def test_it_goes_on_as_if_never_stopped(source: Path, tiny: Tiny, tmp_path: Path) -> None:
    ask = [*NEW, "data.replay=0.25", "checkpoint.every_n_steps=2", "data.val_fraction=0.2"]
    require_equal_after_a_kill(tiny, tmp_path, 5, *ask)


@pytest.mark.slow
def test_mistakes(source: Path, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"^data.replay=0.1: has no run to take text of; give init_from"):
        train(tiny("data.replay=0.1"))
    with pytest.raises(UserError, match=r"^data.replay=1.0: is not in \[0, 1\); 0.1 is usual"):
        tiny("data.replay=1")
    (source / "config.yaml").write_text((source / "config.yaml").read_text().replace("  data: text\n", ""))
    with pytest.raises(UserError, match=r"^data.replay=0.1: \S*source does not say what text it was trained on; leave"):
        train(tiny(*NEW, "data.replay=0.1"))
