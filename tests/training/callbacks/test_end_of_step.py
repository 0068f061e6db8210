"""A run that is stopped or killed at any instant, and resumed, ends as one that never was: in every file."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.errors import Stopped
from gptlab.training import metrics_file
from gptlab.training.averaging import WeightAverage
from gptlab.training.callbacks import checkpointing, end_of_step, samples
from gptlab.training.callbacks.checkpointing import CheckpointFiles, Checkpoints
from gptlab.training.callbacks.end_of_step import EndOfStep
from gptlab.training.callbacks.graceful_stop import GracefulStop
from gptlab.training.config import TrainConfig
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from tests.training.test_resume import resumed, rows, stop_at

Tiny = Callable[..., TrainConfig]
# 3 micro-batches a step; steps that are only logged, only validated, only saved, all of them, and none
RUN = ["ema=0.9", "data.batch_size=6", "data.micro_batch_size=2", "model.dropout=0.2", "budget.steps=7"]
RUN += ["trainer.val_every_n_steps=3", "checkpoint.every_n_steps=2", "logger.every_n_steps=2"]
# what is done in a step, each a place in front of which and behind which a run may end
PLACES: list[tuple[Any, str]] = [
    (GPTModule, "training_step"),
    (GPTModule, "on_train_batch_start"),
    (GPTModule, "validation_step"),
    (GPTModule, "on_validation_epoch_end"),
    (WeightAverage, "update"),
    (EndOfStep, "_log"),
    (EndOfStep, "_improved"),
    (end_of_step, "validate"),
    (samples, "append"),
    (samples, "write_markdown"),
    (metrics_file, "write_atomically"),
    (CheckpointFiles, "save_checkpoint"),
    (checkpointing, "_put"),
    (Checkpoints, "save"),
    (Checkpoints, "mark_best"),
]


def instrument(patch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> list[str]:
    """Let `act` be called at the instant number `at`; returns the names of the instants that passed."""
    passed: list[str] = []

    def instant(name: str) -> None:
        if len(passed) == at:
            act()
        passed.append(name)

    for owner, name in PLACES:
        whole = getattr(owner, name)

        def watched(*args: Any, _whole: Any = whole, _name: str = name, **kwargs: Any) -> Any:
            instant(f"before {_name}")
            found = _whole(*args, **kwargs)
            instant(f"after {_name}")
            return found

        patch.setattr(owner, name, watched)
    return passed


def left_by(run: Path) -> dict[str, Any]:
    """All that must not depend on whether a run was stopped."""
    summary = json.loads((run / "summary.json").read_text())
    checkpoints = {}
    for name in ("last", "best"):
        saved = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
        checkpoints[name] = {
            "step": saved["global_step"],
            "averaged": {key: value.tolist() for key, value in saved["state_dict"].items()},
            "trained": {key: value.tolist() for key, value in saved["current_model_state"].items()},
            "score": saved["callbacks"]["EndOfStep"]["best"],
        }
    return {
        "rows": rows(run),
        "samples.md": (run / "samples.md").read_text(),
        "samples.jsonl": (run / "samples.jsonl").read_text(),
        "summary": {key: summary[key] for key in summary if key.startswith(("train_", "val_", "steps", "tokens", "st"))}
        | {"tokens_per_second": None},
        "unfinished": [path.name for path in (run / "checkpoints").glob(".*-*")],
        **checkpoints,
    }


def go_on(run: Path, tiny: Tiny) -> None:
    """Resume a run as its user would: one that never reached a checkpoint begins again."""
    if not (run / "summary.json").exists():
        train(tiny(*RUN))
    elif not any((run / "checkpoints").glob("*.ckpt")):
        train(tiny(*RUN, "resume=auto"))
    else:
        resumed(run)


@pytest.fixture
def expected(tiny: Tiny, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What an uninterrupted run leaves, and how many instants it has."""
    with pytest.MonkeyPatch.context() as patch:
        passed = instrument(patch, -1, lambda: None)
        train(tiny(*RUN, f"run_dir={tmp_path}/whole"))
    yield left_by(tmp_path / "whole") | {"instants": passed}


def chosen(instants: list[str], part: int, of: int) -> list[int]:
    """Some of the instants, spread over all of them."""
    return list(range(part, len(instants), of))


def asked_to_stop(at: int, tiny: Tiny) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stops: list[GracefulStop] = []
        whole = GracefulStop.on_train_start

        def on_train_start(self: GracefulStop, *args: Any) -> None:
            stops.append(self)
            whole(self, *args)

        patch.setattr(GracefulStop, "on_train_start", on_train_start)
        instrument(patch, at, lambda: setattr(stops[-1], "why", "SIGTERM") if stops else None)
        try:
            train(tiny(*RUN))
        except Stopped as stop:
            assert stop.signal_number == signal.SIGTERM


def killed(at: int, tiny: Tiny) -> None:
    """SIGKILL in a child process."""
    config = tiny(*RUN)
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            with pytest.MonkeyPatch.context() as patch:
                instrument(patch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
                train(config)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("end", [asked_to_stop, killed])
@pytest.mark.parametrize(
    ("part", "of"), [(3, 40), *(pytest.param(part, 10, marks=pytest.mark.slow) for part in range(0, 10, 2))]
)
def test_at_any_instant(
    end: Callable[[int, Tiny], None], part: int, of: int, tiny: Tiny, tmp_path: Path, expected: dict[str, Any]
) -> None:
    instants = expected.pop("instants")
    assert len(instants) > 150 and set(instants) == {
        f"{when} {name}" for _, name in PLACES for when in ("before", "after")
    }
    for at in chosen(instants, part, of):
        end(at, tiny)
        run = tmp_path / "run"
        if run.exists() or end is killed:
            summary = run / "summary.json"
            if not summary.exists() or json.loads(summary.read_text())["status"] != "finished":
                go_on(run, tiny)
        found = left_by(run)
        for key, value in expected.items():
            assert found[key] == value, f"{key} after it ended at instant {at}, {instants[at]}"
        run.rename(tmp_path / f"run-{at}")


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


def test_a_continuation_that_is_refused_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*RUN))
    run = tmp_path / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"^budget\.steps=4: is 4 steps, and the run that is resumed is at step 7"):
        (run / "summary.json").write_text(json.dumps({"status": "stopped", "layout": 2}))
        before[run / "summary.json"] = (run / "summary.json").read_bytes()
        resumed(run, "budget.steps=4")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_second_resume_of_a_run_that_is_running_changes_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        stop_at(patch, 14, RuntimeError())
        train(tiny(*RUN))
    run = tmp_path / "run"
    lock = checkpointing_lock(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"is still running"):
        resumed(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    lock.release()


def checkpointing_lock(run: Path) -> Any:
    from gptlab.runs.run_dir import RunDir

    return RunDir(run).hold()


def test_resume_auto_is_the_same_line_however_often_it_is_killed(tiny: Tiny, tmp_path: Path) -> None:
    """Killed before its first checkpoint, and again, as a queue would repeat it."""
    for at in (0, 3, 40):
        config = tiny(*RUN, "resume=auto")
        child = os.fork()
        if child == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                with pytest.MonkeyPatch.context() as patch:
                    instrument(patch, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
                    train(config)
            finally:
                os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    train(tiny(*RUN, "resume=auto"))
    train(tiny(*RUN, f"run_dir={tmp_path}/whole"))
    assert left_by(tmp_path / "run") == left_by(tmp_path / "whole")
