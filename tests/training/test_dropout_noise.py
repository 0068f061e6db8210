"""Dropout noise is a function of where training is: no two steps, micro-batches or ranks share it."""

import itertools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW
from gptlab.optim.schedules import Constant
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training import module as training
from gptlab.training.loss import Loss
from gptlab.training.module import GPTModule

PLACES = list(itertools.product(range(4), range(3), range(4)))  # (step, micro-batch, rank)


def noises(places: Iterable[tuple[int, int, int]]) -> list[tuple[float, ...]]:
    """Return what a model with dropout makes of one input at each place."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=16, block_size=8, vocab_size=5, dropout=0.5)).train()
    module = GPTModule(Loss(CausalLM(), gpt), AdamW(), Constant(), 9, 1, 1.0, log_every_n_steps=1, seed=7)
    batch: Any = None  # noise does not depend on it
    found = []
    for step, part, rank in places:
        torch.rand(step + 1)  # whatever ran before
        trainer: Any = SimpleNamespace(global_step=step, global_rank=rank, accumulate_grad_batches=3)
        module._trainer = trainer
        module.on_train_batch_start(batch, 3 * step + part)
        found.append(tuple(gpt(torch.arange(5)[None])[0, -1].tolist()))
    return found


def test_each_place_has_its_own_noise_and_always_the_same() -> None:
    first = noises(PLACES)
    assert len(set(first)) == len(PLACES)
    assert noises(reversed(PLACES)) == first[::-1]


@pytest.mark.parametrize("left_out", ["step", "micro-batch", "rank"])
def test_the_test_above_sees_what_is_left_out(left_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that does not know the rank, say, gives the noise of one rank to all."""
    seed, index = training.random_seed, ["step", "micro-batch", "rank"].index(left_out)

    def forgetful(first: int, purpose: str, *place: int) -> int:
        return seed(first, purpose, *(0 if i == index else number for i, number in enumerate(place)))

    broken: Callable[..., int] = forgetful
    monkeypatch.setattr(training, "random_seed", broken)
    assert len(set(noises(PLACES))) == len(PLACES) // (4, 3, 4)[index]
