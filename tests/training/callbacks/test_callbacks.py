import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from gptlab.decoding.decoders import Greedy
from gptlab.model.gpt import GPT, GPTConfig
from gptlab.optim.optimizers import AdamW
from gptlab.optim.schedules import Constant
from gptlab.tokenizers.byte import Byte
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.samples import Samples
from gptlab.training.callbacks.throughput_monitor import ThroughputMonitor
from gptlab.training.loss import Loss
from gptlab.training.module import GPTModule


def trainer(**state: Any) -> Any:
    return SimpleNamespace(
        **({"callback_metrics": {}, "accumulate_grad_batches": 1, "global_step": 0, "max_steps": 4} | state)
    )


def small(log_every_n_steps: int) -> GPTModule:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5))
    return GPTModule(Loss(gpt), AdamW(), Constant(), 9, 1, 1.0, log_every_n_steps, seed=0)


def watched(terminal: bool) -> str:
    """What a run of four steps with one validation prints."""
    screen = io.StringIO()
    bar = ProgressBar(Console(file=screen, force_terminal=terminal, width=120), enabled=True)
    metrics = {"train/loss": torch.tensor(3.25), "train/tokens_per_second": torch.tensor(12345.6)}
    bar.on_train_start(trainer(), None)
    module, state = small(log_every_n_steps=2), trainer(global_step=2, callback_metrics=metrics)
    module._trainer = state
    bar.on_train_batch_end(state, module, None, None, 1)
    bar.bar.refresh()
    scores = metrics | {"val/loss": torch.tensor(3.5), "val/bits_per_byte": torch.tensor(1.75)}
    bar.on_validation_end(trainer(global_step=2, callback_metrics=scores), None)
    bar.on_train_end(trainer(), None)
    return screen.getvalue()


def test_one_bar_with_loss_speed_and_time_left() -> None:
    shown = watched(terminal=True)
    for words in ("2/4", "loss 3.250", "12,346 tokens/s", "left"):
        assert words in shown


def test_no_bar_where_nobody_watches_but_a_line_for_every_validation() -> None:
    assert watched(terminal=False) == "step 2/4 · train loss 3.250 · val loss 3.500 · 1.750 bits/byte\n"


def test_speed_counts_training_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    module = small(log_every_n_steps=2)
    logged: list[dict[str, float]] = []
    monkeypatch.setattr(module, "log_training", logged.append)
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def a_device_that_is_behind(device: torch.device) -> None:
        nonlocal now
        now += 0.5

    monkeypatch.setattr("gptlab.training.callbacks.throughput_monitor.wait_for_device", a_device_that_is_behind)
    speed = ThroughputMonitor(tokens_per_step=10, waited=lambda: (now - 100) / 4)
    speed.share_per_token = 0.03
    speed.on_train_start(trainer(), module)
    for step, seconds in enumerate([1.0, 1.5], start=1):
        now += seconds
        state = trainer(global_step=step)
        module._trainer = state
        speed.on_train_batch_end(state, module, None, None, step - 1)
    figures = {"train/tokens_per_second": pytest.approx(20 / 3), "train/mfu": pytest.approx(0.2)}
    assert logged == [figures | {"train/data_wait": pytest.approx(1 / 4)}]
    now += 1000  # a long validation
    speed.on_validation_end(state, module)
    now += 0.5
    speed.on_train_batch_end(trainer(global_step=3), module, None, None, 2)
    assert speed.tokens_per_second == pytest.approx(30 / 4)
    again, before = ThroughputMonitor(tokens_per_step=10), speed.state_dict()
    now += 50  # until the run goes on
    again.setup(state, module, "fit")
    again.load_state_dict(before)
    now += 6
    assert again.all_seconds == pytest.approx(1 + 2 + 1000 + 1 + 6)
    again.load_state_dict({"seconds": 4.0, "steps": 3})  # of a checkpoint that is older than this
    assert again.all_seconds == pytest.approx(4 + 6)


def test_samples_of_a_model_that_has_diverged(tmp_path: Path) -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=257))
    torch.nn.init.constant_(gpt.wte.weight, float("nan"))
    samples = Samples(tmp_path, ["the"], Byte().build([]), Greedy(), seed=0)
    assert "has diverged" in samples.continue_(gpt.eval(), Greedy(), 0)
