"""Debugging modes: each changes something that can be measured."""

import csv
import json
from pathlib import Path

import pytest
import torch

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.data.batches.batch import Batch
from gptlab.training.module import GPTModule
from tests.conftest import tiny_overrides


def rows(run: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def ask(texts: str, *more: str) -> list[str]:
    """Return the overrides of a tiny run that a debugging mode does not choose."""
    chosen = ("budget.", "trainer.val_every_n_steps", "logger.every")
    return ["train", *(o for o in tiny_overrides(texts) if not o.startswith(chosen)), "run_dir=run", *more]


def test_fast_is_a_few_steps_of_everything(texts: str) -> None:
    """Also of a recipe with a budget in another unit."""
    assert main(ask(texts, "experiment=verdict", "data=text", "model.vocab_size=0", "debug=fast")) == 0
    assert [row["step"] for row in rows("run") if row["val/loss"]] == ["4", "8"]
    assert Path("run/samples.md").read_text().count("## step") == 2
    assert {"step-4.ckpt", "step-8.ckpt", "best.ckpt"} <= {path.name for path in Path("run/checkpoints").iterdir()}
    assert compose("train", ["budget.steps=null", "budget.tokens=1e6", "debug=fast"]).budget.fixed() == {"tokens": 1e6}


@pytest.mark.slow
def test_overfit_learns_one_batch(texts: str) -> None:
    assert main(ask(texts, "debug=overfit", "optimizer.lr=0.02", "model.dropout=0.3")) == 0
    losses = [float(row["train/loss"]) for row in rows("run") if row["train/loss"]]
    assert losses[-1] < 0.5 * losses[0]
    seen = compose("train", ["debug=overfit"])
    assert (seen.data.repeat_steps, seen.model.dropout) == (1, 0.0)


def test_profile_leaves_a_trace_and_a_table(texts: str) -> None:
    assert main(ask(texts, "debug=profile")) == 0
    (trace,) = Path("run/profile").glob("*.json")
    names = [event.get("name", "") for event in json.loads(trace.read_text())["traceEvents"]]
    assert any(name.startswith("aten::") for name in names)
    assert sum(name.endswith("GPTModule.on_train_batch_start") for name in names) == 3
    (table,) = Path("run/profile").glob("*.txt")
    assert any(name.endswith("run_training_batch") for name in names)  # the table has only the slowest
    assert not any("validation_step" in name for name in names)
    assert "aten::" in table.read_text()


@pytest.mark.slow
def test_profile_of_a_run_whose_end_is_validated_after_training(texts: str) -> None:
    assert main(ask(texts, "debug=profile", "trainer.val_every_n_steps=7")) == 0
    assert [row["step"] for row in rows("run") if row["val/loss"]] == ["7", "8"]
    assert len(list(Path("run/profile").glob("*.json"))) == len(list(Path("run/profile").glob("*.txt"))) == 1


def test_nan_names_the_operator(texts: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(self: GPTModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        return torch.sqrt(self.gpt.wte.weight.sum() * 0.0) * 0.0  # 0 * inf

    monkeypatch.setattr(GPTModule, "training_step", broken)
    assert main(ask(texts, "on_nan=skip", "debug=nan")) == 1
    assert "SqrtBackward0" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_can_be_resumed_in_a_debugging_mode(texts: str) -> None:
    """A recipe over the run's own config, not under it."""
    assert main(["train", *tiny_overrides(texts), "run_dir=run"]) == 0
    assert main(["train", "resume=run", "debug=profile", "budget.steps=16"]) == 0
    assert list(Path("run/profile").glob("*.json"))
