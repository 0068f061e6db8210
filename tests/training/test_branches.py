"""Decays that are branched off one run are the runs with these budgets, to the bit (Hu et al. 2024; Haegele et al. 2024)."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptlab.commands.scaling_points import points_of
from gptlab.errors import UserError
from gptlab.optim.schedules import WSD, Constant, Cosine, Schedule, batch_sizes, steps_in_common
from gptlab.runs.run_dir import RunDir
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

SCHEDULE = ["schedule=wsd", "schedule.warmup_steps=2", "schedule.decay_share=0.25", "trainer.val_every_n_steps=4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "begins"), [([], (6, 9)), (["tail_average=0.4"], (5, 7))], ids=["", "average of the tail"]
)
def test_a_branch_is_the_run_with_its_budget(
    more: list[str], begins: tuple[int, int], tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Three horizons for 16 + 2 + 3 steps in place of 16 + 8 + 12; the trunk keeps what they begin with.

    Of 8 steps the decay is over 0.25 * 7 = 1.75, so that the rate falls from the seventh on; of 12 from the tenth. The
    last 0.4 of 8 are 3 steps, of 12 they are 5: the mean over them begins sooner.
    """
    ask, kept = [*SCHEDULE, *more], ["checkpoint.every_n_steps=5", "checkpoint.keep_last=1"]
    horizons = "checkpoint.horizons=[8,12]"
    train(tiny(*ask, *kept, horizons, "budget.steps=16", f"run_dir={tmp_path}/runs/16"))
    assert sorted(RunDir(tmp_path / "runs/16").by_step()) == [*begins, 16]
    for steps, begin in zip((8, 12), begins, strict=True):
        budget = f"budget.steps={steps}"
        # with the horizons, as in the config of the trunk
        folders = [f"resume={tmp_path}/runs/16", f"run_dir={tmp_path}/runs/{steps}"]
        branch = train(tiny(*ask, horizons, budget, "checkpoint.keep_last=9", *folders))
        assert (tmp_path / f"runs/{steps}/checkpoints/step-{begin}.ckpt").exists()  # where it began
        alone = train(tiny(*ask, budget, f"run_dir={tmp_path}/alone/{steps}"))
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


@pytest.mark.parametrize(
    ("schedule", "common"),
    [
        (WSD(warmup_steps=20, decay_share=0.2), 80),  # 99 - 0.2 * 99 = 79.2 is the first step of the decay
        (WSD(warmup_share=0.1), 0),  # a slower warm-up
        # step 50 is the first with twice the batch: it counts twice, step 99 ends 148, and 118.4 begins the decay
        (WSD(warmup_steps=20, decay_share=0.2, batch=[[400, 16]]), 85),
        (Constant(), 100),
        (Cosine(warmup_steps=7), 8),  # the cosine begins at the full rate
    ],
)
def test_the_steps_that_two_budgets_share(schedule: Schedule, common: int) -> None:
    sizes = batch_sizes(8, schedule)
    assert steps_in_common(schedule, sizes, 100, 400) == steps_in_common(schedule, sizes, 400, 100) == common


def test_another_rate_is_no_trunk(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """A run at another rate is not what the shorter run would have been: it is refused, as a shorter budget always was."""
    train(tiny(*SCHEDULE, "budget.steps=8", "checkpoint.horizons=[4]", f"run_dir={tmp_path}/runs/8"))
    with pytest.raises(UserError, match="is 4 steps, and the run that is resumed is at step 8"):
        train(tiny(*SCHEDULE, "budget.steps=4", "optimizer.lr=1e-5", f"resume={tmp_path}/runs/8"))
