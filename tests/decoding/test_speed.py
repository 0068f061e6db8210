"""Seconds of prompts and steps, by a clock that the model moves."""

import time

import pytest
import torch
from torch import nn

from gptlab.decoding.context import Limits
from gptlab.decoding.speed import MOST_PROMPTS, MOST_STEPS, decode_seconds, prefill_seconds

LIMITS = Limits(8, 32, n_vocab=5)


class Slow(nn.Module):
    """A model without a cache, each of whose calls takes a second for each text, and 0.1 for each token of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.now, self.calls = 100.0, 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        self.now += len(idx) + 0.1 * idx.numel()
        self.calls += 1
        return torch.zeros(*idx.shape, 5)


def test_a_prompt_takes_what_its_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt = Slow(monkeypatch)
    assert prefill_seconds(gpt, 10, LIMITS, until=108.0) == pytest.approx([2.0] * 3)  # the first one warms up
    assert prefill_seconds(gpt, 10, LIMITS, until=0.0) == pytest.approx([2.0])
    assert len(prefill_seconds(gpt, 10, LIMITS, until=1e9)) == MOST_PROMPTS


def test_a_step_takes_what_its_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt = Slow(monkeypatch)
    found = decode_seconds(gpt, 3, 10, LIMITS, until=1e9)
    assert MOST_STEPS <= len(found) < MOST_STEPS + 8
    assert found[:8] == pytest.approx([*(3 + 0.3 * length for length in range(11, 18)), 3 + 0.3 * 11])
    gpt.calls = 0
    assert len(decode_seconds(gpt, 3, 10, LIMITS, until=0.0)) == 1 and gpt.calls == 2
