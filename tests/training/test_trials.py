"""Which changes are tried, for machines and configs that are made up."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptlab.commands.bench_tables import _changes
from gptlab.errors import RunFailed
from gptlab.training import trials
from gptlab.training.config import TrainConfig
from gptlab.training.timing import TimeIsUp, ended_after
from gptlab.training.trials import Change, candidates, try_changes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A CPU of four cores, all of which are used, with instructions for bf16 and without a compiler."""
    machine = SimpleNamespace(auto="bf16-true", slow=None, compiler=None, cores=4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(trials, "cores", lambda: machine.cores)
    monkeypatch.setattr(trials, "chosen_precision", lambda precision, accelerator: machine.auto)
    monkeypatch.setattr(trials, "slow_precision", lambda precision, device: machine.slow)
    monkeypatch.setattr(trials.shutil, "which", lambda name: machine.compiler)
    return machine


def told(config: TrainConfig, data: float = 0.0) -> list[str]:
    speed: Any = SimpleNamespace(device=torch.device("cpu"), seconds_per_step=1.0, mean=lambda part: data)
    return [change.told for change in candidates(config, speed)]


def test_each_candidate_has_its_reason(
    machine: SimpleNamespace, tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(tiny()) == ["trainer.precision=auto"]
    assert told(tiny("trainer.precision=bf16-true")) == []
    machine.auto = "32-true"
    assert told(tiny()) == []
    assert told(tiny(), data=0.06) == ["data.num_workers=2"]
    assert told(tiny("data.num_workers=3"), data=0.06) == ["data.num_workers=6"]
    assert told(tiny("optimizer.fused=false")) == ["optimizer.fused=true"]
    machine.slow = "emulated"
    assert told(tiny("trainer.precision=bf16-true")) == ["trainer.precision=32-true"]
    machine.slow, machine.compiler = None, "/usr/bin/g++"
    assert told(tiny()) == ["compile=true"] and told(tiny("compile=true")) == []
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert told(tiny("compile=true")) == []
    machine.cores = 8
    assert told(tiny("compile=true")) == ["OMP_NUM_THREADS=8"]


def test_a_candidate_is_what_it_says(machine: SimpleNamespace, tiny: Callable[..., TrainConfig]) -> None:
    speed: Any = SimpleNamespace(device=torch.device("cpu"), seconds_per_step=1.0, mean=lambda part: 0.5)
    precision, workers, fused = candidates(tiny("optimizer.fused=false"), speed)
    assert precision.values["trainer"].precision == "bf16-true" and "bf16-true" in precision.note
    assert workers.values["data"].num_workers == 2 and fused.values["optimizer"].fused


def test_a_change_that_fails_says_so_and_the_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not called one that there was no time for."""
    outcomes: dict[str, Any] = {
        "precision": RunFailed("its gradient is not finite"),
        "compile": RuntimeError("the compiler fails\nin many lines"),
        "late": TimeIsUp(),
        "workers": SimpleNamespace(step_seconds=[0.5] * 9, seconds=4.0),
    }

    def timed(begun: str, *_: Any) -> Any:
        found = outcomes[begun]
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr(trials, "candidates", lambda config, speed: [Change(name) for name in outcomes])
    monkeypatch.setattr(trials, "with_change", lambda begun, **values: next(names))
    monkeypatch.setattr(trials, "time_training", timed)
    names = iter(outcomes)
    speed: Any = SimpleNamespace(seconds=3.0, asked=1.0, step_seconds=[1.0] * 9)
    begun: Any = SimpleNamespace(config=None)
    found = try_changes(begun, speed, time.perf_counter() + 60, SimpleNamespace(print=lambda *_, **__: None))  # type: ignore[arg-type]
    assert [trial.gain for trial in found] == [None, None, None, 2.0]
    assert [trial.error for trial in found] == ["its gradient is not finite", "the compiler fails", None, None]
    rows = [{"of": "training", **vars(trial)} for trial in found]
    advised = [{"of": "training", "change": "workers", "gain": 2.0, "measured": True, "why": "tried here"}]
    lines = _changes({"training": {}, "inference": None, "not_measured": [], "tried": rows, "change_first": advised})
    assert lines[-3:] == [
        "  precision failed: its gradient is not finite",
        "  compile failed: the compiler fails",
        "  not tried, give more seconds: late",
    ]


@pytest.mark.parametrize("seconds", [0.0, -0.5])
def test_nothing_is_begun_where_the_time_is_over(seconds: float) -> None:
    with pytest.raises(TimeIsUp), ended_after(seconds):
        raise AssertionError("it was begun")


def test_there_may_be_more_time_than_an_alarm_waits_for() -> None:
    with ended_after(1e300):
        pass
