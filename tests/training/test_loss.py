"""The loss, whole and in chunks; tests/benchmarks measures the memory of both."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptlab.data.batches.batch import IGNORE
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks import cross_entropy
from gptlab.tasks.base import Reading
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.loss import Loss

DTYPES = [None, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("separator", [None, 3])
def test_in_chunks_it_is_the_same(
    dtype: torch.dtype | None, separator: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk has 7 of 26 positions, and some targets do not count; the loss and every gradient agree."""
    monkeypatch.setattr(cross_entropy, "CHUNK", 7)
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=13, vocab_size=11, logit_softcap=5.0))
    x, y = torch.randint(11, (2, 2, 13))
    y[0, 3:6] = IGNORE
    found = []
    for chunked in (False, True):
        gpt.zero_grad()
        loss = Loss(CausalLM(), gpt, Reading(separator, chunked), dtype)(x, y)
        loss.sum().backward()
        found.append([loss.detach(), *(p.grad for p in gpt.parameters())])
    for one, other in zip(*found, strict=True):
        assert one is not None and (one - other).norm() <= (1e-5 if dtype is None else 0.05) * one.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", [None, pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_all_at_once(dtype: torch.dtype | None, backend: str | None) -> None:
    """Blocks computed again, in chunks, in low precision, compiled: the gradients of the plain loss."""
    all_at_once(dtype, backend)


@pytest.mark.slow
def test_all_at_once_compiled_as_for_a_run(some: Callable[..., list[Any]]) -> None:
    """A C++ compiler takes most of the time."""
    for dtype in some(DTYPES, 2):
        torch.compiler.reset()
        all_at_once(dtype, "inductor")


def all_at_once(dtype: torch.dtype | None, backend: str | None) -> None:
    torch.manual_seed(0)
    # a compiler takes seconds for each layer
    gpt = GPT(GPTConfig(n_layer=1 if backend else 2, n_head=2, n_embd=16, block_size=13, vocab_size=11))
    x, y = torch.randint(11, (2, 2, 13))
    found = []
    for plain in (True, False):
        gpt.zero_grad()
        gpt.recompute = not plain
        loss = Loss(CausalLM(), gpt, Reading(chunked=not plain), dtype)
        if backend and not plain:
            loss.compile(backend=backend)
        loss(x, y).sum().backward()
        found.append([p.grad.clone() for p in gpt.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) == len(list(gpt.parameters()))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= (1e-5 if dtype is None else 0.05) * one.norm()
