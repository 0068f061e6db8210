"""The parts of a training step, by a clock that stands still but for what is planted in each of them."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from gptlab.data.batches.windows import TrainWindows
from gptlab.optim.optimizers import AdamW
from gptlab.training.averaging import WeightAverage
from gptlab.training.build import build
from gptlab.training.callbacks.throughput_monitor import ThroughputMonitor
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from gptlab.training.step_parts import Measured, StepParts
from gptlab.training.timing import for_timing, num_devices, passing_start, time_training, with_change
from gptlab.training.trials import Change, try_changes

PLANTED = {"data": 0.6, "forward": 0.2, "backward": 0.4, "optimizer": 0.09, "weight_average": 0.01, "rest": 0.02}
QUIET = Console(quiet=True)


class Clock:
    """A clock, and functions that move it on before they do their work, or instead of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.monkeypatch = 0.0, monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def plant(self, owner: Any, name: str, seconds: float) -> None:
        work = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return work(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, slow)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Plant so much time in a run of two micro-batches a step as PLANTED has."""
    clock = Clock(monkeypatch)
    forward = Loss.forward

    def with_slow_backward(self: Loss, *tensors: Tensor) -> Tensor:
        loss = forward(self, *tensors)

        def slow(gradient: Tensor) -> None:
            clock.now += 0.2

        loss.register_hook(slow)
        return loss

    class SlowSGD(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = closure()
            clock.now += 0.04
            return loss

    monkeypatch.setattr(Loss, "forward", with_slow_backward)
    monkeypatch.setattr(AdamW, "build", lambda self, model: SlowSGD(model.parameters(), lr=0.0))
    clock.plant(TrainWindows, "__getitems__", 0.3)
    clock.plant(Loss, "forward", 0.1)
    clock.plant(GPTModule, "clip", 0.05)
    clock.plant(WeightAverage, "update", 0.01)
    clock.plant(ThroughputMonitor, "step", 0.02)
    return clock


@pytest.fixture
def config(tiny: Callable[..., TrainConfig]) -> TrainConfig:
    return tiny("data.micro_batch_size=2", "ema=0.9")


def test_the_parts_are_those_that_were_planted(clock: Clock, config: TrainConfig, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with passing_start(config, QUIET) as begun:
        speed = time_training(begun, 10.0, QUIET)
        folder = begun.run_dir.parent
        assert folder.exists()
    assert speed.parts == pytest.approx(PLANTED)
    assert speed.seconds_per_step == pytest.approx(1.32) and speed.tokens_per_second == pytest.approx(4 * 32 / 1.32)
    assert (speed.micro_batches, speed.micro_batch_size) == (2, 2)
    assert len(speed.steps) == 8 and speed.log_seconds == 0  # up to 10 s, in pairs, which are logged together
    assert all(step.total == pytest.approx(1.32) for step in speed.steps)
    assert not folder.exists()
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == before


def test_what_the_log_takes_is_told_from_the_rest(clock: Clock, config: TrainConfig) -> None:
    clock.plant(GPTModule, "training_metrics", 0.5)
    with passing_start(config, QUIET) as begun:
        speed = time_training(begun, 10.0, QUIET)
    assert speed.log_seconds == pytest.approx(0.25) and speed.mean("rest") == pytest.approx(0.27)


def test_without_waiting_for_the_device_there_is_the_whole_step_alone(clock: Clock, config: TrainConfig) -> None:
    with passing_start(config, QUIET) as begun:
        built, parts_clock = build(begun, QUIET), StepParts(10.0, 2, waits=False)
        built.trainer.callbacks.insert(0, parts_clock)
        with pytest.raises(Measured):
            built.trainer.fit(built.module, built.datamodule)
    (parts,) = {tuple(round(value, 6) for value in step.seconds.values()) for step in parts_clock.steps}
    assert parts == (0.6, 0, 0, 0, 0, 0.72)


def test_changes_are_tried_as_long_as_there_is_time(
    clock: Clock, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A larger micro-batch takes data, forward and backward once a step: 0.72 s in place of 1.32."""
    with passing_start(config, QUIET) as begun:
        speed = time_training(begun, 10.0, QUIET)
        larger = Change("larger", {"data": dataclasses.replace(begun.config.data, micro_batch_size=4)})
        monkeypatch.setattr("gptlab.training.trials.candidates", lambda *_: [larger, Change("late"), Change("later")])
        began = clock.now
        found = try_changes(begun, speed, began + 25.0, QUIET)
    assert clock.now - began < 25 and 14 < speed.seconds < 16
    assert [trial.gain for trial in found] == [pytest.approx(1.32 / 0.72), None, None] and found[0].clear


def test_a_config_for_timing_leaves_its_surroundings_alone(tiny: Callable[..., TrainConfig]) -> None:
    monitor = "+callbacks.others.a._target_=lightning.pytorch.callbacks.LearningRateMonitor"
    overrides = ["logger.wandb=true", "trainer.devices=2", "schedule.batch=[[8,8]]", "trainer.max_minutes=1"]
    config = tiny(*overrides, monitor, "trainer.val_at_start=true")
    found = for_timing(config, Path("new"))
    assert not found.logger.wandb and not found.callbacks.others and found.run_dir == "new"
    assert (found.data.batch_size, found.trainer.devices, found.batch_sizes.constant) == (2, 1, True)
    assert found.trainer.max_minutes is None and not found.trainer.val_at_start
    assert found.optimizer == config.optimizer and found.model == config.model


def test_the_devices_of_a_config(tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    config = tiny("trainer.accelerator=auto")
    for devices, number in {"auto": 4, 2: 2}.items():
        trainer = dataclasses.replace(config.trainer, devices=devices)
        assert num_devices(dataclasses.replace(config, trainer=trainer)) == number
    assert num_devices(tiny()) == 1  # a CPU
    of_some = dataclasses.replace(config.trainer, devices=[1, 3], num_nodes=2)
    assert num_devices(dataclasses.replace(config, trainer=of_some)) == 4


def test_a_model_that_is_begun_with_is_read_again(tiny: Callable[..., TrainConfig]) -> None:
    train(tiny("run_dir=first", "budget.steps=2"))
    with passing_start(tiny("init_from=first", "adapter=lora", "optimizer.lr=1"), QUIET) as begun:
        assert begun.initial is not None
        before = {name: p.clone() for name, p in begun.initial.gpt.named_parameters()}
        time_training(begun, 0.01, QUIET)
        again = with_change(begun, seed=2).initial
        assert again is not None and again is not begun.initial
        after = dict(again.gpt.named_parameters())
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
