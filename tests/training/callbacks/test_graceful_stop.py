"""A run that is asked to stop saves, says how to go on, and ends the same when it does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.data.tokens import encode
from gptlab.distributed.ranks import Ranks
from gptlab.errors import Stopped, UserError
from gptlab.runs.run_dir import LAYOUT, RunDir
from gptlab.tokenizers.bpe import BytePairTokenizer
from gptlab.training.callbacks import graceful_stop as stopping
from gptlab.training.callbacks.graceful_stop import GracefulStop
from gptlab.training.config import TrainConfig
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from tests.conftest import ROOT, start, tiny_overrides
from tests.forked import gptlab
from tests.training.test_resume import RUN, resumed, rows, same, stop_at

Tiny = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _no_nohup() -> Iterator[None]:
    """These tests may themselves run under nohup, which lets SIGHUP be ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals(name: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent within step 5, the run ends there, and Slurm is asked to start it again after SIGUSR1."""
    train(tiny(*RUN, f"run_dir={tmp_path}/whole"))
    asked: list[list[str]] = []
    monkeypatch.setattr(stopping.subprocess, "run", lambda command, check: asked.append(command))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    sigterm, sigint = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        signal_at(patch, 8, getattr(signal, name))
        train(tiny(*RUN))
    os.kill(os.getpid(), signal.SIGUSR1)  # as one that comes after those of other ranks: nobody minds
    assert signal.getsignal(signal.SIGTERM) is sigterm and signal.getsignal(signal.SIGINT) is sigint
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", 5)  # the step it came in is made whole
    assert asked == ([["scontrol", "requeue", "17"]] if name == "SIGUSR1" else [])
    resumed(tmp_path / "run")
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("when", ["section", "tokenizer", "run directory"])
def test_a_signal_before_training_leaves_nothing_half_written(
    when: str, name: str, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under Slurm its warning asks for the queue again: what is prepared is in the cache, and the rest goes on there."""
    owner, called = {"section": (encode, "_write_section"), "tokenizer": (BytePairTokenizer, "save")}.get(
        when, (RunDir, "write_config")
    )
    whole, asked = getattr(owner, called), list[object]()
    monkeypatch.setattr(stopping, "requeue", lambda: asked.append(name))

    def with_signal(*args: object, **kwargs: object) -> object:
        result = whole(*args, **kwargs)
        os.kill(os.getpid(), getattr(signal, name))
        return result

    before = {number: signal.getsignal(number) for number in GracefulStop.SIGNALS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    monkeypatch.setattr(owner, called, with_signal)
    command = [
        "train",
        *tiny_overrides(texts),
        "tokenizer=bpe",
        "tokenizer.vocab_size=300",
        "run_dir=run",
        "budget.steps=1",
    ]
    assert main(command) == 128 + getattr(signal, name)
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == "stopped before training began: the same command goes on with what is prepared"
    assert asked == ([name] if name == "SIGUSR1" else [])
    assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert left == [] and not Path("run/summary.json").exists()
    monkeypatch.setattr(owner, called, whole)
    assert main(command) == 0
    signal.signal(signal.SIGHUP, before[signal.SIGHUP])


def test_a_warning_before_the_first_step(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GPTModule.configure_optimizers

    def configure_optimizers(self: GPTModule) -> object:
        os.kill(os.getpid(), signal.SIGUSR1)
        return whole(self)

    monkeypatch.setattr(GPTModule, "configure_optimizers", configure_optimizers)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*RUN))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", 1)


def signal_at(monkeypatch: pytest.MonkeyPatch, batch: int, number: int) -> None:
    whole = GPTModule.training_step

    def training_step(self: GPTModule, data: object, batch_idx: int) -> torch.Tensor:
        if batch_idx == batch:
            os.kill(os.getpid(), number)
        return whole(self, data, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(GPTModule, "training_step", training_step)


def test_a_time_limit(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny("trainer.max_minutes=0.01", "budget.steps=100000", "trainer.val_every_n_steps=100000"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "stopped" and 0 < summary["steps"] < 100000
    assert f"go on: gptlab train resume={tmp_path}/run" in capsys.readouterr().out.replace("\n", "")
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == summary["steps"]


@pytest.mark.slow
def test_two_processes_stop_together(texts: str, tmp_path: Path) -> None:
    """The signal reaches one of them; both stop after the same step, and the run goes on as if nothing had been."""
    ask = [*tiny_overrides(texts), "trainer.devices=2", "schedule=constant", "logger.every_n_steps=1"]
    command = [sys.executable, str(ROOT / "train.py")]
    signals = ("SIGTERM", "SIGINT")
    steps = []
    for name in signals:
        endless = [*ask, "budget.steps=100000", "trainer.val_every_n_steps=100000", f"run_dir={name}"]
        process = start([*command, *endless], stderr=subprocess.PIPE)
        metrics = tmp_path / name / "metrics.csv"
        for _ in range(1200):
            if metrics.exists() and metrics.read_text().count("\n") > 5:
                break
            time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=120)
        assert (
            process.returncode in (130, 128 + getattr(signal, name))
            and "stopped at step" in out
            and "Traceback" not in err
        ), (out, err)
        steps.append(json.loads((tmp_path / name / "summary.json").read_text())["steps"])
        saved = torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == steps[-1] > 0
    more = [f"budget.steps={max(steps) + 3}", "trainer.val_every_n_steps=100000"]
    gptlab("train", *ask, *more, "run_dir=whole")
    for name in signals:
        gptlab("train", f"resume={name}", *more)
        assert same(tmp_path / "whole", tmp_path / name)


@pytest.mark.slow
def test_a_validation_is_not_lost_between_checkpoint_and_kill(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run killed in a validation that is due at a saved step repeats it."""
    train(tiny(*RUN, f"run_dir={tmp_path}/whole"))

    def killed(self: GPTModule, batch: object, batch_idx: int) -> None:
        if self.global_step == 6:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(GPTModule, "on_validation_batch_start", killed)
        train(tiny(*RUN))
    resumed(tmp_path / "run")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def again(tiny: Tiny, *more: str) -> TrainConfig:
    return tiny(*RUN, "resume=auto", *more)


@pytest.mark.slow
def test_auto_goes_on_with_the_newest_unfinished_run_of_the_config(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(*RUN, f"run_dir={tmp_path}/whole"))
    for name, more in (("a", []), ("b", []), ("c", ["optimizer.lr=0.5"]), ("d", [])):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            stop_at(patch, 1 if name == "d" else 9, RuntimeError())  # d has no checkpoint yet
            train(tiny(*RUN, *more, f"run_dir=outputs/day/{name}"))
    summary = train(again(tiny, "run_dir=outputs/day/new"))
    assert summary is not None and summary["run_dir"].endswith("outputs/day/b")
    assert (summary["status"], summary["steps"]) == ("finished", 12)
    assert same(tmp_path / "whole", tmp_path / "outputs/day/b")
    second = train(again(tiny, "run_dir=outputs/day/new"))
    assert second is not None and second["run_dir"].endswith("outputs/day/a")
    third = train(again(tiny, "run_dir=outputs/day/new"))  # nothing is left: a new one
    assert third is not None and third["run_dir"].endswith("outputs/day/new") and third["steps"] == 12


@pytest.mark.slow
def test_auto_in_a_named_directory(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line starts it and goes on with it, as a queue would repeat it."""
    for batch in (7, 13):
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            stop_at(patch, batch, RuntimeError())
            train(again(tiny, f"run_dir={tmp_path}/job"))
    summary = train(again(tiny, f"run_dir={tmp_path}/job"))
    assert summary is not None and summary["steps"] == 12
    with pytest.raises(UserError, match=r"^run_dir=.+job: holds a run already"):
        train(again(tiny, f"run_dir={tmp_path}/job"))


@pytest.mark.slow
def test_a_run_that_is_still_running_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    lock = RunDir(tmp_path / "run").hold()
    with pytest.raises(UserError, match=r"^resume=.+run: is still running; stop it first"):
        resumed(tmp_path / "run", "budget.steps=9")
    lock.release()
    assert resumed(tmp_path / "run", "budget.steps=9")["steps"] == 9


def test_a_run_of_a_newer_version(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    path = tmp_path / "run/summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": LAYOUT + 1}))
    with pytest.raises(
        UserError, match=rf"made by a newer gptlab \(its layout is {LAYOUT + 1}, this one knows {LAYOUT}"
    ):
        resumed(tmp_path / "run", "budget.steps=9")


def test_not_a_run(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run directory"):
        train(compose("train", [f"resume={tmp_path}"]))


def test_a_second_ctrl_c_does_not_wait_for_the_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, batches = GPTModule.training_step, []

    def training_step(self: GPTModule, data: object, batch_idx: int) -> torch.Tensor:
        if batch_idx == 8:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        batches.append(batch_idx)
        return whole(self, data, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(GPTModule, "training_step", training_step)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*RUN))
    assert batches[-1] == 7
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_the_exit_code_of_a_process(name: str, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 + n by the command, whatever Lightning makes of the exception."""
    signal_at(monkeypatch, 8, getattr(signal, name))
    monkeypatch.setattr(stopping.subprocess, "run", lambda command, check: None)
    assert main(["train", *tiny_overrides(texts), *RUN, "run_dir=run"]) == 128 + getattr(signal, name)
    assert json.loads(Path("run/summary.json").read_text())["status"] == "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_process_that_is_told_to_stop(name: str, texts: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *tiny_overrides(texts), "budget.steps=100000", "run_dir=run"]
    process = start([*command, "logger.every_n_steps=1", "trainer.val_every_n_steps=100000"], stderr=subprocess.PIPE)
    metrics = tmp_path / "run/metrics.csv"
    for _ in range(1200):
        if metrics.exists():
            break
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name) and "Traceback" not in said
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_a_terminal_that_closes_does_not_stop_what_nohup_started(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signal_at(monkeypatch, 3, signal.SIGHUP)
        summary = train(tiny())
        assert summary is not None and summary["status"] == "finished"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_before_the_first_step_saves_after_it(
    name: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once Lightning has set its own handlers, of which there are none."""
    whole = GPTModule.on_train_start

    def on_train_start(self: GPTModule) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        whole(self)

    monkeypatch.setattr(GPTModule, "on_train_start", on_train_start)
    with pytest.raises(Stopped) as stopped:
        train(tiny(*RUN))
    assert stopped.value.signal_number == getattr(signal, name)
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 1


def test_ctrl_c_before_the_first_step(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to save: it ends at once."""

    def configure_optimizers(self: GPTModule) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(GPTModule, "configure_optimizers", configure_optimizers)
    assert main(["train", *tiny_overrides(texts), "run_dir=run"]) == 128 + signal.SIGINT
    assert json.loads(Path("run/summary.json").read_text())["status"] == "stopped"
    assert not list(Path("run/checkpoints").glob("*.ckpt"))


def test_all_ranks_know_why() -> None:
    """The largest number that any has been asked by; the time limit is the least."""

    class Others(Ranks):
        said = 0.0

        def max(self, value: float) -> float:
            return max(value, self.said)

    ranks = Others()
    stop = GracefulStop(ranks, None)
    assert not stop.asked() and stop.why is None
    ranks.said = 0.5
    assert stop.asked() and (stop.why, stop.signal_number) == ("trainer.max_minutes", None)
    ranks.said = float(signal.SIGUSR1)
    assert stop.asked() and (stop.why, stop.signal_number) == ("SIGUSR1", signal.SIGUSR1)
