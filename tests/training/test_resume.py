"""A run that is stopped and resumed ends as one that never was."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from tests.conftest import ROOT, tiny_overrides
from tests.forked import gptlab

Tiny = Callable[..., TrainConfig]
RUN = ["model.dropout=0.2", "budget.steps=12", "checkpoint.every_n_steps=3", "data.micro_batch_size=2"]
TIMED = {"train/tokens_per_second", "train/mfu", "train/data_wait"}


def resumed(run: Path, *more: str) -> dict[str, Any]:
    """Return the result of `gptlab train resume=RUN`."""
    ask = [*more, f"run_dir={run}", f"resume={run}"]
    summary = train(compose("train", ask, run=run))
    assert summary is not None
    return summary


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[key], second[key]) for key in first)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMED and v} for row in csv.DictReader(file)]


def stop_at(monkeypatch: pytest.MonkeyPatch, batch: int, how: BaseException) -> None:
    """Let the next run stop within a micro-batch, as a person or a crash would make it."""
    whole = GPTModule.training_step

    def training_step(self: GPTModule, data: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == batch:
            raise how
        return whole(self, data, batch_idx)

    monkeypatch.setattr(GPTModule, "training_step", training_step)


def kill_at(batch: int, config: TrainConfig) -> None:
    """Train a run that crashes within a micro-batch."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, batch, RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            train(config)


def require_equal_after_a_kill(config: Tiny, folder: Path, batch: int, *more: str) -> None:
    """Train a run to its end, and another that is killed within a micro-batch and resumed: they must end alike.

    `config` makes the config of a run from overrides; the runs are `folder`/whole and `folder`/run.
    """
    train(config(*more, f"run_dir={folder}/whole"))
    kill_at(batch, config(*more, f"run_dir={folder}/run"))
    resumed(folder / "run")
    assert same(folder / "run", folder / "whole") and rows(folder / "run") == rows(folder / "whole")


@pytest.mark.slow
def test_rates_and_norms_of_a_scaled_model_go_on(tiny: Tiny, tmp_path: Path) -> None:
    """With the rates of CompleteP, at twice the base's width and depth, and norms that stay."""
    ask = ["model.parametrization=completep", "model.base_width=8", "model.base_depth=1", "optimizer.hyperball=true"]
    require_equal_after_a_kill(tiny, tmp_path, 4, *ask, "checkpoint.every_n_steps=2", "schedule=constant")
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert [group["lr"] / groups[0]["lr"] for group in groups] == [1, 1, 0.5, 1]
    assert {row["optim/lr"] for row in rows(tmp_path / "run") if "optim/lr" in row} == {str(groups[0]["lr"])}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [["optimizer.normuon=true", "optimizer.coefficients=polar_express"], ["optimizer.hyperball=true"]]
)
def test_the_state_of_muon_goes_on(more: list[str], tiny: Tiny, tmp_path: Path) -> None:
    """With averaged weights and accumulation, and decay that depends on the gradients of the step."""
    ask = ["optimizer=muon", "optimizer.cautious_weight_decay=true", "ema=0.9", "data.micro_batch_size=2", *more]
    require_equal_after_a_kill(tiny, tmp_path, 9, *ask, "checkpoint.every_n_steps=2", "schedule=constant")


@pytest.mark.slow
@pytest.mark.parametrize("kept", [2, 4], ids=["before the tail", "within it"])
def test_a_mean_of_the_last_weights_goes_on(kept: int, tiny: Tiny, tmp_path: Path) -> None:
    """Of the last three of six steps, from a checkpoint before them or from one that has the first of them."""
    require_equal_after_a_kill(tiny, tmp_path, 5, "tail_average=0.5", f"checkpoint.every_n_steps={kept}")


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_documents_in_a_new_order_each_epoch_go_on_in_that_order(
    packing: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second epoch of three, and once more in the third."""
    ask = [
        "data.repack=true",
        f"data.packing={packing}",
        "budget.steps=12",
        "checkpoint.every_n_steps=3",
        "data.batch_size=16",
    ]
    whole = train(tiny(*ask, f"run_dir={tmp_path}/whole"))
    assert whole is not None
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 7, KeyboardInterrupt())
        train(tiny(*ask))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 3, KeyboardInterrupt())
        resumed(tmp_path / "run")
    summary = resumed(tmp_path / "run")
    assert (summary["status"], summary["steps"]) == ("finished", 12)
    assert same(tmp_path / "whole", tmp_path / "run")
    assert rows(tmp_path / "run")[-3:] == rows(tmp_path / "whole")[-3:]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "how"), [(9, KeyboardInterrupt()), (14, KeyboardInterrupt()), (19, RuntimeError())])
def test_stopped_within_an_accumulation(
    batch: int, how: BaseException, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches a step: stopped in the second of step 4 and 9, and in the first of step 7."""
    train(tiny(*RUN, f"run_dir={tmp_path}/whole"))
    with monkeypatch.context() as patch, pytest.raises(type(how)):
        stop_at(patch, batch, how)
        train(tiny(*RUN))
    summary = resumed(tmp_path / "run")
    assert (summary["status"], summary["steps"]) == ("finished", 12)
    assert same(tmp_path / "whole", tmp_path / "run")
    assert rows(tmp_path / "run")[-3:] == rows(tmp_path / "whole")[-3:]
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [e.step for e in events.Scalars("loss/val")] == [3, 6, 9, 12]


@pytest.mark.slow
def test_a_crash_loses_nothing_that_was_logged(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps after the last checkpoint come again, once; those before are kept."""
    train(tiny(*RUN, f"run_dir={tmp_path}/whole"))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        stop_at(patch, 17, RuntimeError("crashed"))
        train(tiny(*RUN))
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
    resumed(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert (tmp_path / "run/samples.md").read_text() == (tmp_path / "whole/samples.md").read_text()


@pytest.mark.slow
def test_a_budget_can_be_lengthened(tiny: Tiny, tmp_path: Path) -> None:
    constant = ["schedule=constant", "model.dropout=0.2"]
    train(tiny(*constant, "budget.steps=9", f"run_dir={tmp_path}/whole"))
    first = train(tiny(*constant, "budget.steps=6"))
    whole = resumed(tmp_path / "run", "budget.steps=9")
    assert first is not None and whole["steps"] == 9 and whole["seconds"] > first["seconds"]
    assert same(tmp_path / "whole", tmp_path / "run")
    with pytest.raises(UserError, match=r"^resume=.+: has its 9 steps already; lengthen it, e\.g\. budget\.steps=18$"):
        resumed(tmp_path / "run")


@pytest.mark.slow
def test_a_decay_branches_off_a_stable_run(texts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Stable until step 6 and then down to nothing: as one run of this schedule from the start."""
    wsd = ["schedule=wsd", "schedule.decay_share=0.5", "schedule.warmup_steps=0"]
    ask = [*tiny_overrides(texts), "model.dropout=0.2", "checkpoint.every_n_steps=3", "checkpoint.keep_last=9"]
    stable = ["schedule=constant", "schedule.warmup_steps=0", "budget.steps=9"]
    assert main(["train", *ask, *stable, "run_dir=stable"]) == 0
    before = {path: path.read_bytes() for path in Path("stable").rglob("*") if path.is_file()}
    stem = "resume=stable/checkpoints/step-6.ckpt"
    assert main(["train", stem, "run_dir=decayed", *wsd, "budget.steps=12"]) == 0
    assert main(["train", *ask, *wsd, "budget.steps=12", "run_dir=whole"]) == 0
    assert same(Path("whole"), Path("decayed")) and rows(Path("whole")) == rows(Path("decayed"))
    assert Path("decayed/samples.md").read_text() == Path("whole/samples.md").read_text()
    assert {path: path.read_bytes() for path in Path("stable").rglob("*") if path.is_file()} == before
    assert main(["train", stem, "run_dir=decayed", *wsd, "budget.steps=12"]) == 2
    assert "error: run_dir=decayed: holds a run already" in capfd.readouterr().err


def test_killed_after_the_last_step_it_is_only_measured(tiny: Tiny, tmp_path: Path) -> None:
    whole = train(tiny())
    assert whole is not None
    (tmp_path / "run/summary.json").write_text('{"status": "running"}')
    summary = resumed(tmp_path / "run")
    assert (summary["status"], summary["val_loss"]) == ("finished", pytest.approx(whole["val_loss"]))


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("model.n_layer=3", "model.n_layer=3: but the run that is resumed has 2; leave it out"),
        ("data.val_fraction=0.2", "data.val_fraction=0.2: but the run that is resumed has 0.1; "),
        ("data.batch_size=8", "data.batch_size=8: but the run that is resumed has 4; "),
        ("optimizer.beta2=0.5", r"optimizer\.beta2=0.5: but the run that is resumed has 0.95; "),
        ("seed=7", "seed=7: but the run that is resumed has 1337; "),
    ],
)
def test_what_would_make_it_a_lie_is_refused_by_name(override: str, why: str, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("budget.steps=2"))
    with pytest.raises(UserError, match=f"^{why}"):
        resumed(tmp_path / "run", override, "budget.steps=4")


def test_another_rate_is_taken(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steady = ["schedule=constant", "schedule.warmup_steps=0"]
    train(tiny(*steady, "optimizer.lr=0.01"))
    capsys.readouterr()
    resumed(tmp_path / "run", "budget.steps=9", "optimizer.lr=0.002")
    said = "changed in this continuation: optimizer.lr: 0.01 -> 0.002, budget.steps: 6 -> 9"
    assert said in capsys.readouterr().out
    assert [float(row["optim/lr"]) for row in rows(tmp_path / "run") if "optim/lr" in row] == [
        0.01,
        0.01,
        0.01,
        0.002,
        0.002,
    ]


@pytest.mark.slow
def test_other_text_is_refused_unless_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("budget.steps=2"))
    path = tmp_path / "texts/00.txt"
    path.write_text(path.read_text() + "one more line\n")
    with pytest.raises(
        UserError, match=r"^data=.+: the checkpoint was trained on other data .+; .+other_data_ok=true$"
    ):
        resumed(tmp_path / "run", "budget.steps=4")
    assert resumed(tmp_path / "run", "budget.steps=4", "data.other_data_ok=true")["steps"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_checkpoints(damage: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one before is taken, to the same end, and the run says so; one line if there is none."""
    steady = ["schedule=constant", "model.dropout=0.2"]
    train(tiny(*steady, f"run_dir={tmp_path}/whole", "budget.steps=8"))
    train(tiny(*steady, "checkpoint.every_n_steps=2"))
    folder = tmp_path / "run/checkpoints"
    assert {path.name for path in folder.glob("*.ckpt")} == {"best.ckpt", "last.ckpt", "step-6.ckpt", "step-4.ckpt"}
    spoil(folder / "last.ckpt", damage)  # and step-6.ckpt, which is the same file
    capsys.readouterr()
    assert resumed(tmp_path / "run", "budget.steps=8")["steps"] == 8
    shown = capsys.readouterr().out
    assert "last.ckpt, step-6.ckpt: damaged; step-4.ckpt is taken instead" in shown
    assert "going on after step 4" in shown and same(tmp_path / "whole", tmp_path / "run")
    for name in ("step-8", "step-6", "best"):
        spoil(folder / f"{name}.ckpt", "cut")
    with pytest.raises(UserError, match=r"^resume=.+run: last\.ckpt, .+ damaged; name another checkpoint"):
        resumed(tmp_path / "run", "budget.steps=12")


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: -100 if damage == "cut" else None])


@pytest.mark.slow
def test_killed_at_random_instants(texts: str, tmp_path: Path) -> None:
    """SIGKILL, again and again; GPTLAB_KILLS says how often (20 take two minutes)."""
    kills, rng = int(os.environ.get("GPTLAB_KILLS", 3)), random.Random(3)
    command = [sys.executable, str(ROOT / "train.py")]
    ask = [*tiny_overrides(texts), "model.dropout=0.2", f"budget.steps={100 * kills}", "checkpoint.every_n_steps=10"]
    ask += ["trainer.val_every_n_steps=50", "data.micro_batch_size=2", "sample_prompts=[]"]
    train(compose("train", [*ask, "run_dir=whole"]))
    again, killed = [*command, *ask, "run_dir=run"], 0
    while True:
        process = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        last = tmp_path / "run/checkpoints/last.ckpt"
        before = last.stat().st_mtime_ns if last.exists() else 0
        while process.poll() is None and killed < kills and not (last.exists() and last.stat().st_mtime_ns > before):
            time.sleep(0.01)
        if killed == kills or process.poll() is not None:
            _, complaint = process.communicate()
            assert process.returncode == 0, complaint.decode()
            break
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        killed += 1
        if json.loads(Path("run/summary.json").read_text())["status"] == "finished":
            break  # killed when all was done
        again = [*command, "resume=run"]
    print(f"killed {killed} times")
    assert killed > kills / 2 and same(Path("whole"), Path("run"))


@pytest.mark.slow
def test_from_the_command_line_and_onto_two_devices(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, steps in (("whole", 8), ("run", 4)):
        train(tiny("schedule=constant", f"run_dir={tmp_path}/{name}", f"budget.steps={steps}"))
    done = gptlab("train", "resume=run", "budget.steps=8", "trainer.devices=2").stdout
    assert "going on after step 4" in done and "on 2 x cpu" in done
    assert "changed in this continuation: trainer.devices: 1 -> 2, budget.steps: 4 -> 8" in done
    first, second = weights(Path("whole")), weights(Path("run"))
    assert max((first[key] - second[key]).abs().max() for key in first) < 1e-4
    for wrong, why in ((["resume=none"], "error: resume=none: no such directory"), (["resume=run"], "error: resume=")):
        capfd.readouterr()
        code, said = main(["train", *wrong]), capfd.readouterr().err
        assert code == 2 and said.startswith(why) and said.count("\n") == 1
