import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.planning.flops import flops_per_token
from gptlab.runs.config_file import STEPS
from gptlab.training.budget import Budget
from gptlab.training.callbacks import step_timer as pace
from gptlab.training.callbacks.checkpointing import Checkpoints
from gptlab.training.callbacks.step_timer import StepTimer
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.training.test_resume import resumed, rows, same

SIZES = {"tokens_per_step": 1000, "tokens_per_epoch": 50_000, "parameters": 200, "flops_per_token": 1200}


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, STEPS),
        ({"steps": 7}, 7),
        ({"tokens": 20_000}, 20),
        ({"tokens": 20_600}, 21),
        ({"tokens": 1}, 1),
        ({"epochs": 2.5}, 125),
        ({"flops": 1.2e9}, 1000),
        ({"tokens_per_param": 20}, 4),
    ],
)
def test_one_unit_gives_the_others(given: dict[str, float], steps: int) -> None:
    plan = Budget(**given).plan(**SIZES)  # type: ignore[arg-type]
    assert plan is not None
    assert (plan.steps, plan.tokens) == (steps, steps * 1000)
    assert plan.epochs == steps / 50 and plan.flops == steps * 1_200_000 and plan.tokens_per_param == steps * 5


def test_a_run_by_tokens(tiny: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tiny("budget.steps=null", "budget.tokens=1000")
    summary = train(config)
    assert summary is not None and summary["steps"] == 8  # of 4 x 32 tokens
    model = json.loads(json.dumps(summary))
    assert model["flops"] == 8 * 128 * flops_per_token(
        config.model.__class__(**{**vars(config.model), "vocab_size": 257})
    )
    assert "8 steps, 1,024 tokens" in capsys.readouterr().out


def test_two_budgets_at_once() -> None:
    with pytest.raises(UserError, match=r"^tokens=5: and budget.steps are given; add budget.steps=null$"):
        Budget(steps=3, tokens=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["steps", "tokens", "epochs", "flops", "tokens_per_param", "minutes", "seconds_per_step"]
)
def test_a_budget_of_nothing(key: str) -> None:
    with pytest.raises(UserError, match=f"^budget.{key}=0"):
        compose("train", [f"budget.{key}=0"])


def test_minutes_in_steps() -> None:
    plan = Budget(minutes=2, seconds_per_step=0.25).plan(**SIZES)
    assert plan is not None and plan.steps == 480 and plan.tokens == 480_000
    assert str(plan).endswith("FLOPs; fixed: minutes=2 of 250 ms a step")
    assert Budget(minutes=2).plan(**SIZES) is None  # before a step is timed


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        ["data.micro_batch_size=2", "model.dropout=0.2"],
        ["data.micro_batch_size=auto", "optimizer=muon", "data.num_workers=1", "ema=0.9"],
    ],
)
def test_a_run_by_minutes_is_the_run_of_its_steps(
    how: list[str], tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timing leaves no trace, with accumulation, dropout, another optimizer, processes that load, averaged weights."""
    monkeypatch.setattr(pace, "SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(StepTimer, "_time", slow_as(7 / 6, StepTimer._time))
        by_minutes = train(tiny(*how, "budget.steps=null", "budget.minutes=0.14"))
    by_steps = train(tiny(*how, "budget.steps=7", f"run_dir={tmp_path}/steps"))
    assert by_minutes is not None and by_steps is not None and by_minutes["steps"] == by_steps["steps"] == 7
    assert (by_minutes["budget"], by_steps["budget"]) == ({"minutes": 0.14}, {"steps": 7})
    assert same(tmp_path / "run", tmp_path / "steps")
    assert rows(tmp_path / "run") == rows(tmp_path / "steps")


def slow_as(seconds: float, timed: Callable[..., float]) -> Callable[..., float]:
    """Real steps, and a made-up time."""

    def _time(*args: object) -> float:
        assert 0 < timed(*args) < 60
        return seconds

    return _time


@pytest.mark.slow
def test_minutes_are_timed_once(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that goes on keeps the number that it found, and a longer budget counts by the same time of a step."""
    ask = ["budget.steps=null", "budget.minutes=0.1", "checkpoint.every_n_steps=2"]
    monkeypatch.setattr(pace, "SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(StepTimer, "_time", slow_as(1.0, StepTimer._time))
        train(tiny(*ask))
        said = capsys.readouterr().out
        assert "minutes=0.1, in steps when some have been timed" in said and "timed: 6 steps, 768 tokens" in said
        patch.setattr(Checkpoints, "due", stops_after(4))
        with pytest.raises(KeyboardInterrupt):
            train(tiny(*ask, f"run_dir={tmp_path}/half"))
    monkeypatch.setattr(StepTimer, "on_fit_start", lambda *args: pytest.fail("timed again"))
    again = compose("train", ["run_dir=again"], run=tmp_path / "run")
    train(again)  # a run that is repeated
    assert same(tmp_path / "run", Path("again"))
    auto = train(tiny(*ask, f"run_dir={tmp_path}/half", "resume=auto"))
    assert auto is not None and auto["run_dir"] == f"{tmp_path}/half"
    assert same(tmp_path / "run", tmp_path / "half")
    train(tiny(*ask, f"run_dir={tmp_path}/branch", f"resume={tmp_path}/run/checkpoints/step-4.ckpt"))
    assert same(tmp_path / "run", tmp_path / "branch")
    why = r"has its 6 steps already; lengthen it, e\.g\. budget\.minutes=0\.2$"
    with pytest.raises(UserError, match=rf"^resume=.+: {why}"):
        resumed(tmp_path / "half")
    assert resumed(tmp_path / "half", "budget.minutes=0.15")["steps"] == 9


def stops_after(last: int) -> Callable[..., bool]:
    """Crash at the end of a step, before its checkpoint."""

    def due(self: Checkpoints, step: int) -> bool:
        if step == last + 1:
            raise KeyboardInterrupt
        return step % 2 == 0

    return due


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.001, [3, 3, 3000]), (1.0, [3, 3, 20]), (4.0, [3, 3, 8]), (100.0, [3, 3, 3])]
)
def test_how_many_steps_are_timed(
    seconds: float, steps: list[int], tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 of them or three seconds, whichever is more; of very slow ones half a minute or three of them."""
    made: list[int] = []

    def _time(self: StepTimer, trainer: object, module: object, batches: object, steps: int) -> float:
        made.append(steps)
        return seconds

    monkeypatch.setattr(StepTimer, "_time", _time)
    summary = train(tiny("budget.steps=null", f"budget.minutes={seconds / 60}"))
    assert made == steps and summary is not None and summary["steps"] == 1
