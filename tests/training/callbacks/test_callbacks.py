import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from gptlab.decoding.decoders import Greedy
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tokenizers.byte import Byte
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.throughput_monitor import ThroughputMonitor
from gptlab.training.remaining_time import RemainingTime


def watched(terminal: bool) -> str:
    """Return the output of a run of four steps with one validation."""
    screen = io.StringIO()
    remaining = RemainingTime(0, 2)
    bar = ProgressBar(Console(file=screen, force_terminal=terminal, width=120), True, remaining)
    metrics = {"train/loss": 3.25, "train/tokens_per_second": 12345.6}
    with bar.shown():
        bar.bar.refresh()
        bar.on_train_start(SimpleNamespace(max_steps=4, global_step=0), None)
        bar.step(1, 10.0)
        bar.logged(metrics)
        bar.step(2, 12.0)
        bar.bar.refresh()
        with bar.doing("validating"):
            bar.bar.refresh()
        remaining.paused("validation", 20.0)
        bar.validated(2, 4, {"val/bits_per_byte": 1.75, "val/loss": 3.5, "val/perplexity": 33.1, **metrics})
    return screen.getvalue()


def test_one_bar_with_loss_speed_and_time_left() -> None:
    shown = watched(terminal=True)
    for words in (
        "starting",
        "step 2/4",
        "loss 3.250",
        "12,346 tokens/s",
        "0:00:04 left + 2 validations",
        "validating",
    ):
        assert words in shown


def test_no_bar_where_nobody_watches_but_a_line_for_every_validation() -> None:
    line = "step 2/4 · train loss 3.250 · val loss 3.500 · 1.750 bits/byte · 0:00:24 left\n"  # 2 steps and a validation
    assert watched(terminal=False) == line


def test_speed_counts_training_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    speed = ThroughputMonitor(waited=lambda: (now - 100) / 4)
    speed.share_per_token = 0.03
    speed.on_train_start(None, None)
    for seconds in (1.0, 2.0):
        now += seconds
        speed.step(10)
    assert speed.metrics() == {
        "train/tokens_per_second": pytest.approx(20 / 3),
        "train/mfu": pytest.approx(0.2),
        "train/data_wait": pytest.approx(1 / 4),
    }
    now += 0.5
    with speed.paused():
        now += 1000  # a long validation
    now += 0.5
    speed.step(10)
    assert speed.tokens_per_second == pytest.approx(30 / 4)
    again, before = ThroughputMonitor(), speed.state_dict()
    now += 50  # until the run goes on
    again.setup(None, None, "fit")
    again.load_state_dict(before)
    now += 6
    assert again.all_seconds == pytest.approx(3 + 0.5 + 1000 + 0.5 + 6) and again.tokens == 30


def test_samples_of_a_model_that_has_diverged() -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=257))
    torch.nn.init.constant_(gpt.wte.weight, float("nan"))
    assert "has diverged" in CausalLM().samples(gpt.eval(), Byte().build([]), ["the"], Greedy(), seed=0)[0]
