"""Which changes are tried, for machines and configs that are made up."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptlab.training import trials
from gptlab.training.config import TrainConfig
from gptlab.training.trials import candidates


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
