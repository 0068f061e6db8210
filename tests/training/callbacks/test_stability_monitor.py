"""A run that goes wrong says so, with the batch that did it."""

import dataclasses
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from gptlab.commands.main import main
from gptlab.commands.replay import replay
from gptlab.config import compose
from gptlab.errors import RunFailed, UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW
from gptlab.optim.schedules import Constant
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tokenizers.byte import Byte
from gptlab.training import build
from gptlab.training import run as training
from gptlab.training.budget import Budget
from gptlab.training.callbacks.stability_monitor import Spike, Spikes, StabilityMonitor
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.module import GPTModule, NotFinite
from gptlab.training.run import train
from gptlab.training.trainer import TrainerConfig
from tests.conftest import tiny_overrides
from tests.data.batches.test_foreign import Mine
from tests.faults.instants import signalled
from tests.forked import in_fork
from tests.training.callbacks.test_end_of_step import differences
from tests.training.test_resume import RUN, resumed, same, weights

Tiny = Callable[..., TrainConfig]
STEADY = ["model.dropout=0.2", "data.micro_batch_size=2", "budget.steps=8", "checkpoint.every_n_steps=2"]


def spoiled(monkeypatch: pytest.MonkeyPatch, *passes: int) -> list[torch.Tensor]:
    """Losses of these training passes, counted from 0, become NaN; returns what all passes were given."""
    forward, given = Loss.forward, list[torch.Tensor]()

    def broken(self: Loss, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = forward(self, x, y)
        if not torch.is_grad_enabled():
            return loss
        given.append(x)
        return loss * math.nan if len(given) - 1 in passes else loss

    monkeypatch.setattr(Loss, "forward", broken)
    return given


def report(run: Path, step: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"stability/step-{step}.json").read_text())
    return found


def test_it_stops_before_the_weights_are_spoiled(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        given = spoiled(patch, 9)  # the second half of step 5
        why = (
            r"^step=5: its gradient is not finite; lower optimizer\.lr, or on_nan=skip; .*gptlab replay run=.+ step=5$"
        )
        with pytest.raises(RunFailed, match=why):
            train(tiny(*STEADY))
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert all(w.isfinite().all() for w in weights(run).values())
    found = report(run, 5)
    assert found["what"] == "the gradient is not finite" and len(found["windows"]) == 4
    batch = torch.cat(given[8:10])
    for row, window in zip(batch, found["windows"], strict=True):
        assert Byte().build([]).decode(row.tolist()) == window["text"][: len(window["text"]) - 1]
    assert resumed(run)["status"] == "finished"  # without the fault


def test_a_step_is_skipped(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 5 changes nothing; step 6 is made by the batch of step 6. SGD without momentum tells by its weights."""
    plain = [*STEADY, "optimizer=sgd", "optimizer.momentum=0", "schedule=constant", "schedule.warmup_steps=0"]
    every = ["checkpoint.every_n_steps=1", "checkpoint.keep_last=9", "on_nan=skip"]
    with monkeypatch.context() as patch:
        spoiled(patch, 8)
        summary = train(tiny(*plain, *every))
    assert summary is not None and (summary["status"], summary["steps"]) == ("finished", 8)

    def at(step: int) -> torch.Tensor:
        saved = torch.load(tmp_path / f"run/checkpoints/step-{step}.ckpt", weights_only=True)["state_dict"]
        return torch.cat([w.flatten() for w in saved.values()])

    assert torch.equal(at(4), at(5)) and not torch.equal(at(5), at(6))
    assert "skipped" in report(tmp_path / "run", 5)["what"]


@pytest.mark.slow
def test_back_to_the_last_checkpoint(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 6 goes wrong: step 7 is made from the weights and the optimizer of step 4."""
    steady = [*STEADY, "schedule=constant", "schedule.warmup_steps=0", "checkpoint.every_n_steps=4"]
    with monkeypatch.context() as patch:
        spoiled(patch, 11)
        train(tiny(*steady, "on_nan=rewind", "budget.steps=6"))
    assert "going on with the weights of step 4" in report(tmp_path / "run", 6)["what"]
    train(tiny(*steady, f"run_dir={tmp_path}/plain", "budget.steps=4"))
    assert same(tmp_path / "run", tmp_path / "plain")


def bad_step(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Make the loss of a step NaN, in every start of the run."""
    whole = GPTModule.training_step

    def training_step(self: GPTModule, batch: Any, batch_idx: int) -> torch.Tensor:
        return whole(self, batch, batch_idx) * (math.nan if self.global_step == bad - 1 else 1)

    monkeypatch.setattr(GPTModule, "training_step", training_step)


@pytest.mark.slow
@pytest.mark.parametrize("on_nan", ["rewind", "skip"])
def test_a_stop_before_a_bad_step_changes_nothing(
    on_nan: str, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at step 7 and saved there, a run goes back from step 8 to the checkpoint of step 6, as it would have."""
    bad_step(monkeypatch, 8)
    ask = [*tiny_overrides(texts), *RUN, "ema=0.9", "checkpoint.keep_last=1", f"on_nan={on_nan}", "logger=csv"]

    def begin(folder: str) -> None:
        train(compose("train", [*ask, f"run_dir={folder}"]))

    assert in_fork(lambda: begin("whole")) == (0, "")
    assert signalled(("before training batch", 13), signal.SIGTERM, lambda: begin("run")) == 128 + signal.SIGTERM
    assert in_fork(lambda: resumed(Path("run"))) == (0, "")
    if on_nan == "rewind":
        assert "the weights of step 6" in report(Path("run"), 8)["what"]
    assert differences(Path("whole"), Path("run")) == []


def test_an_average_goes_back_with_its_weights(texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 8 goes wrong: the run ends as one of step 6 that went on with what the batch of step 9 makes of it."""
    steady = ["schedule=constant", "schedule.warmup_steps=0", "ema=0.9", "model.dropout=0", "logger=csv"]
    ask = [*tiny_overrides(texts), *RUN, *steady, "checkpoint.every_n_steps=6", "trainer.val_every_n_steps=99"]
    train(compose("train", [*ask, "budget.steps=6", "run_dir=six"]))
    bad_step(monkeypatch, 8)
    train(compose("train", [*ask, "budget.steps=8", "on_nan=rewind", "run_dir=eight"]))
    six, eight = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("six", "eight"))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(six[part][name], eight[part][name]) for name in six[part])


def test_rows_of_another_data_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report without the batch: nobody can ask such data for the rows of a step."""
    monkeypatch.setattr(build, "record", lambda config: {"seed": config.seed})  # of a part that is not registered
    monkeypatch.setattr(training, "record", lambda config: {"seed": config.seed})
    config = TrainConfig(
        data=Mine(batch_size=4),
        tokenizer=Byte(),
        model=GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=257),
        trainer=TrainerConfig(accelerator="cpu", val_every_n_steps=3),
        budget=Budget(steps=4),
        run_dir=str(tmp_path / "run"),
        on_nan="skip",
        sample_prompts=[],
    )
    with monkeypatch.context() as patch:
        bad_step(patch, 2)
        train(config)
    assert report(tmp_path / "run", 2) == {"step": 2, "what": "the gradient is not finite; the step is skipped"}
    assert "skipped; see " in capsys.readouterr().out
    with (
        monkeypatch.context() as patch,
        pytest.raises(RunFailed, match=r"^step=2: .+; lower optimizer.lr, or on_nan=skip$"),
    ):
        bad_step(patch, 2)
        train(dataclasses.replace(config, on_nan="stop", run_dir=str(tmp_path / "stop")))


def test_it_does_not_go_on_like_that(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        spoiled(patch, *range(6, 100))
        with pytest.raises(RunFailed, match=r"^step=16: "):
            train(tiny("budget.steps=30", "on_nan=skip"))
    assert len(list((tmp_path / "run/stability").iterdir())) == 10


def test_where_the_look_comes_late(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU `stop` looks when it logs and when it saves: the step is named all the same, and nothing spoiled saved."""
    monkeypatch.setattr(GPTModule, "device", property(lambda self: _Elsewhere("cpu")))
    monkeypatch.setattr(torch.cpu, "manual_seed", torch.default_generator.manual_seed, raising=False)
    monkeypatch.setattr("gptlab.training.callbacks.end_of_step.wait_for_device", lambda device: None)
    with monkeypatch.context() as patch:
        spoiled(patch, 4)
        with pytest.raises(RunFailed, match=r"^step=5: "):
            train(tiny("budget.steps=20", "logger.every_n_steps=8", "checkpoint.every_n_steps=4", "on_nan=stop"))
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_where_a_scaler_passes_over_steps(on_nan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16-mixed, which a CPU does not have, a gradient that is not finite is everyday; a loss is not."""
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5))
    module = GPTModule(
        Loss(CausalLM(), gpt), AdamW(), Constant(), 9, 1, 1.0, log_every_n_steps=3, seed=0, on_nan=on_nan
    )
    losses = [(1, 2.0), (2, math.nan), (3, 2.1)]
    monitor = StabilityMonitor(tmp_path, Byte().build([]), on_nan, 8.0, Console(quiet=True), lambda: None)
    trainer: Any = SimpleNamespace(is_global_zero=False)
    if on_nan == "stop":
        with pytest.raises(NotFinite, match="step 2"):
            monitor.check_losses(trainer, module, losses)
        return
    monitor.check_losses(trainer, module, losses)
    assert monitor.skipped == [2] and list(monitor.spikes.last) == [2.0, 2.1]


class _Elsewhere(str):
    type = "cuda"


def test_spikes() -> None:
    rng = np.random.default_rng(0)
    spikes = Spikes(sigmas=6.0)
    quiet = [spikes.see(step, 3 + 0.1 * float(rng.standard_normal())) for step in range(200)]
    assert quiet == [None] * 200
    last = np.array(spikes.last)
    assert len(last) == 100
    spread = 1.4826 * np.median(np.abs(last - np.median(last)))
    assert spikes.see(200, float(np.median(last) + 5.9 * spread)) is None
    assert isinstance(spikes.see(201, 4.0), Spike)
    off = Spikes(sigmas=0, last=last)
    assert off.see(202, 100.0) is None
    assert Spikes(sigmas=6.0, last=last[:10]).see(10, 100.0) is None  # too little to know what is usual


@pytest.mark.slow
def test_a_spike_is_reported(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = Loss.forward, [0]

    def jumps(self: Loss, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls[0] += torch.is_grad_enabled()
        return forward(self, x, y) * (3 if calls[0] == 27 and torch.is_grad_enabled() else 1)

    monkeypatch.setattr(Loss, "forward", jumps)
    train(tiny("budget.steps=30", "logger.every_n_steps=10"))
    assert [path.name for path in (tmp_path / "run/stability").iterdir()] == ["step-27.json"]
    found = report(tmp_path / "run", 27)
    assert found["loss"] > 2 * found["usual"] > 2 and len(found["windows"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_replay_rebuilds_the_batch(
    packing: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        given = spoiled(patch)
        train(tiny(f"data.packing={packing}"))
    result = replay(compose("replay", [f"run={tmp_path}/run", "step=3", "out=batch.pt"]))
    saved = torch.load("batch.pt", weights_only=True)
    assert torch.equal(saved["x"], given[2])
    assert [(row["source"], row["window"]) for row in result["windows"]] == saved["windows"]
    assert all(0 < row["loss"] < 10 for row in result["windows"])
    with pytest.raises(UserError, match=r"^out=batch\.pt: exists already"):
        replay(compose("replay", [f"run={tmp_path}/run", "step=3", "out=batch.pt"]))
    capfd.readouterr()
    assert main(["replay", f"run={tmp_path}/run", "step=3", "json=true"]) == 0
    assert json.loads(capfd.readouterr().out)["windows"] == result["windows"]
    (tmp_path / "texts/00.txt").write_text("something else")
    assert main(["replay", f"run={tmp_path}/run", "step=3"]) == 2
    assert "the text is not the one of the run any more" in capfd.readouterr().err
