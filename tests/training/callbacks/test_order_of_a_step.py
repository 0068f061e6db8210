"""Everything due at the end of a step is done in one order, and a stop waits for it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.errors import Stopped
from gptlab.training.callbacks import checkpointing, end_of_step
from gptlab.training.callbacks.end_of_step import EndOfStep
from gptlab.training.config import TrainConfig
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from tests.training.test_resume import resumed, rows

Tiny = Callable[..., TrainConfig]
# 3 micro-batches a step; steps that are only logged, only validated, only saved, all of them, and none
RUN = ["ema=0.9", "data.batch_size=6", "data.micro_batch_size=2", "model.dropout=0.2", "budget.steps=7"]
RUN += ["trainer.val_every_n_steps=3", "checkpoint.every_n_steps=2", "logger.every_n_steps=2"]


def test_a_stop_takes_effect_at_the_end_of_a_step(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for in the first batch of a validation, a stop waits for its end, for samples, best and checkpoint."""
    whole = GPTModule.validation_step

    def validation_step(self: GPTModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, batch, batch_idx)

    monkeypatch.setattr(GPTModule, "validation_step", validation_step)
    with pytest.raises(Stopped) as stop:
        train(tiny(*RUN))
    assert stop.value.signal_number == signal.SIGTERM
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", 3)
    assert [row["step"] for row in rows(run) if "val/loss" in row] == ["3"]
    assert "## step 3" in (run / "samples.md").read_text()
    assert checkpointing.step_of(run / "checkpoints/best.ckpt") == 3
    assert checkpointing.step_of(run / "checkpoints/last.ckpt") == 3


@pytest.mark.slow
def test_the_best_is_the_lowest_of_all_validations(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations are at 3, 6 and, off the grid, at the end; the best survives a resume and a move of the run."""
    losses = {3: 5.0, 6: 7.0, 7: 4.0, 9: 4.5, 12: 6.0}
    whole = end_of_step.EndOfStep._remember

    def _remember(self: EndOfStep, trainer: Any) -> None:
        whole(self, trainer)
        if self._step in losses:
            self.metrics["val/loss"] = losses[self._step]

    monkeypatch.setattr(EndOfStep, "_remember", _remember)
    train(tiny(*RUN))
    run = tmp_path / "run"
    assert checkpointing.step_of(run / "checkpoints/best.ckpt") == 7
    moved = run.rename(tmp_path / "moved")
    resumed(moved, "budget.steps=12")
    assert checkpointing.step_of(moved / "checkpoints/best.ckpt") == 7
    saved = torch.load(moved / "checkpoints/last.ckpt", weights_only=True)
    assert saved["callbacks"]["EndOfStep"]["best"] == (4.0, 7)


@pytest.mark.slow
def test_without_averaging_a_run_goes_on_from_the_trained_weights(tiny: Tiny, tmp_path: Path) -> None:
    """`resume=RUN ema=null` of a run that averages."""
    train(tiny(*RUN, "schedule=constant", "budget.steps=6"))
    plain = [part for part in RUN if not part.startswith("ema")]
    train(tiny(*plain, "schedule=constant", "budget.steps=9", f"run_dir={tmp_path}/plain"))
    resumed(tmp_path / "run", "ema=null", "budget.steps=9")
    found, right = (
        torch.load(tmp_path / f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "plain")
    )
    assert all(torch.equal(found[key], right[key]) for key in right)
