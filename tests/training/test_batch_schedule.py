"""Batches that grow by the place in the data: the same sequences, losses and weights however the steps are divided."""

from pathlib import Path
from typing import Any

import pytest

from gptlab.data.batches.sampler import MicroBatch
from gptlab.data.batches.windows import TrainWindows
from gptlab.errors import UserError
from gptlab.reporting.curves import read_curves
from gptlab.runs.reader import read_run
from gptlab.training.run import train
from tests.training.test_devices import PACKED, command, compare, losses
from tests.training.test_resume import Tiny, resumed, rows, same

SIZES = [4, 4, 8, 8, 12, 12]
GROWS = ["schedule=constant", "schedule.batch=[[6,8],[22,12]]", "budget.steps=6"]
KEPT = ["checkpoint.every_n_steps=1", "checkpoint.keep_last=9", "data.micro_batch_size=2", "logger.every_n_steps=4"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[MicroBatch]:
    """All micro-batches of training that are made in the test."""
    made: list[MicroBatch] = []
    give = TrainWindows.__getitems__

    def __getitems__(self: TrainWindows, micro_batch: MicroBatch) -> Any:
        made.append(micro_batch)
        return give(self, micro_batch)

    monkeypatch.setattr(TrainWindows, "__getitems__", __getitems__)
    return made


@pytest.mark.slow
def test_a_run_goes_on_from_any_step(tiny: Tiny, tmp_path: Path, read: list[MicroBatch]) -> None:
    """Resumed within a size, between two and between two logs, it ends with the same weights and the same rows."""
    ask = [*GROWS, *KEPT, "model.dropout=0.2", "ema=0.9"]
    summary = train(tiny(*ask))
    assert summary is not None and summary["tokens"] == sum(SIZES) * 32
    assert [len(each.windows) for each in read] == [2] * (sum(SIZES) // 2)
    assert [each.step_tokens for each in read] == [size * 32 for size in SIZES for _ in range(size // 2)]
    places = [place for each in read for place in each.windows]
    for step in (1, 4):
        branch = tmp_path / f"from-{step}"
        train(tiny(*ask, f"run_dir={branch}", f"resume={tmp_path}/run/checkpoints/step-{step}.ckpt"))
        assert same(tmp_path / "run", branch) and rows(tmp_path / "run") == rows(branch)
    read.clear()
    train(tiny("budget.steps=12", f"run_dir={tmp_path}/even"))  # of 4 each
    assert places == [place for each in read for place in each.windows]  # the same text in the same order

    curves = read_curves(read_run(tmp_path / "run", "run"))
    assert curves.over("tokens", "val/loss")[0] == [16 * 32, 48 * 32]
    why = r"step 4 would end with sequence 20 of the data, and the run has read 24 by then"
    with pytest.raises(UserError, match=rf"^schedule.batch=\[\[10, 8\]\]: {why}; .+ from sequence 24 on$"):
        ask = [*ask, "schedule.batch=[[10,8]]", f"resume={tmp_path}/run/checkpoints/step-4.ckpt"]
        train(tiny(*ask, f"run_dir={tmp_path}/other"))
    assert not (tmp_path / "other").exists()
    # another size from the place of the checkpoint on is a branch of its own: 24 + 3 x 16 sequences
    ask[-2:] = ["schedule.batch=[[6,8],[24,16]]", "budget.steps=7", ask[-1]]
    wider = train(tiny(*ask, f"run_dir={tmp_path}/wider"))
    assert wider is not None and wider["tokens"] == (24 + 3 * 16) * 32


@pytest.mark.slow
def test_micro_batches_do_not_change_the_losses(tiny: Tiny, tmp_path: Path) -> None:
    """Packed by documents and masked, windows have unequal numbers of targets."""
    for micro in ("1", "null"):
        ask = [*GROWS, *PACKED, "logger.every_n_steps=1", f"data.micro_batch_size={micro}"]
        train(tiny(*ask, f"run_dir={tmp_path}/{micro}"))
    compare(tmp_path / "1", tmp_path / "null", 1e-5)
    _, first, *later = losses(tmp_path / "1", "optim/lr")  # after a step of warming up
    assert later == pytest.approx([first * (size / 4) ** 0.5 for size in SIZES[2:]])


@pytest.mark.slow
def test_two_devices(texts: str, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*GROWS, "logger.every_n_steps=1"))
    command(texts, *GROWS, "trainer.devices=2", f"run_dir={tmp_path}/2")
    compare(tmp_path / "run", tmp_path / "2", 2e-5)


@pytest.mark.slow
def test_labelled_examples_and_a_budget_of_tokens(tiny: Tiny, tmp_path: Path) -> None:
    """Any task whose data come in steps can grow them; a budget in other units counts what the steps will read."""
    ask = [
        "data=labelled",
        "data.files=[]",
        "task=classification",
        "data.batch_size=4",
        "data.micro_batch_size=2",
        *GROWS[:2],
    ]
    config = tiny(*ask, "budget.steps=5", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9")
    train(config)
    train(tiny(*ask, "budget.steps=5", f"resume={tmp_path}/run/checkpoints/step-2.ckpt", f"run_dir={tmp_path}/branch"))
    assert same(tmp_path / "run", tmp_path / "branch") and rows(tmp_path / "run") == rows(tmp_path / "branch")
    summary = train(tiny(*GROWS[:2], "budget.steps=null", "budget.tokens=1000", f"run_dir={tmp_path}/tokens"))
    assert summary is not None and (summary["steps"], summary["tokens"]) == (5, 36 * 32)  # 24 sequences are 768
    resumed(tmp_path / "tokens", "budget.tokens=1500")
    assert read_run(tmp_path / "tokens", "run").figure("tokens") == 48 * 32


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (["data.micro_batch_size=2", "schedule.batch=[[6,7]]"], r"^schedule.batch=7: is not a multiple of 2 .+6 or 8$"),
        (["data.repeat_steps=2", "schedule.batch=[[6,8]]"], r"^data.repeat_steps=2: repeats batches of one size"),
    ],
)
def test_what_does_not_go_together(ask: list[str], said: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        train(tiny(*ask))
    assert not (tmp_path / "run").exists()
