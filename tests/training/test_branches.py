"""Decays that are branched off one run are the runs with these budgets, to the bit (Hu et al. 2024; Haegele et al. 2024)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptlab.commands.scaling_points import points_of
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

SCHEDULE = ["schedule=wsd", "schedule.warmup_steps=2", "schedule.decay_share=0.25", "trainer.val_every_n_steps=4"]


@pytest.mark.slow
def test_a_branch_is_the_run_with_its_budget(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Three horizons for 16 + 2 + 3 steps in place of 16 + 8 + 12."""
    kept = ["checkpoint.every_n_steps=3", "checkpoint.keep_last=9"]
    train(tiny(*SCHEDULE, *kept, "budget.steps=16", f"run_dir={tmp_path}/runs/16"))
    for steps, begin in ((8, 6), (12, 9)):
        at = tmp_path / f"runs/16/checkpoints/step-{begin}.ckpt"
        budget = f"budget.steps={steps}"
        branch = train(tiny(*SCHEDULE, budget, f"resume={at}", f"run_dir={tmp_path}/runs/{steps}"))
        alone = train(tiny(*SCHEDULE, budget, f"run_dir={tmp_path}/alone/{steps}"))
        assert branch is not None and alone is not None
        assert (branch["val_loss"], branch["tokens"]) == (alone["val_loss"], alone["tokens"])
        first, second = (
            torch.load(tmp_path / f"{place}/{steps}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
            for place in ("runs", "alone")
        )
        assert all(torch.equal(first[name], second[name]) for name in first)
    found = points_of([str(tmp_path / "runs")], "all")
    assert sorted(each.tokens for each in found.points) == [8 * 128, 12 * 128, 16 * 128]
    assert {each.cluster for each in found.points} == {str(tmp_path / "runs/16")}
    apart = points_of([str(tmp_path / "alone")], "all")
    assert {each.cluster for each in apart.points} == {str(tmp_path / f"alone/{steps}") for steps in (8, 12)}
