"""optimizer.hyperball: matrices in the blocks keep the norms that they began with."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW, Muon


def gpt(**more: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=20, **more))


def gradients(model: GPT, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=draw, dtype=p.dtype)


def test_three_steps_of_adamw_against_numpy() -> None:
    """Each step is AdamW's, and then the matrix is multiplied so that its Frobenius norm is the first one."""
    model = gpt().double()
    optimizer = AdamW(lr=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, eps=1e-6, fused=False, hyperball=True).build(
        model
    )
    inner, outer = model.blocks[0].mlp.fc.weight, model.wte.weight
    found = [p.detach().numpy().copy() for p in (inner, outer)]
    norm = np.sqrt((found[0] ** 2).sum())
    m, v = [0.0, 0.0], [0.0, 0.0]
    for t in (1, 2, 3):
        gradients(model, t)
        g = [p.grad.numpy().copy() for p in (inner, outer) if p.grad is not None]
        optimizer.step()
        for i in (0, 1):
            m[i], v[i] = 0.8 * m[i] + 0.2 * g[i], 0.9 * v[i] + 0.1 * g[i] ** 2
            step = (m[i] / (1 - 0.8**t)) / (np.sqrt(v[i] / (1 - 0.9**t)) + 1e-6)
            found[i] = found[i] * (1 - 0.1 * 0.5) - 0.1 * step
        found[0] = found[0] * norm / np.sqrt((found[0] ** 2).sum())
    assert np.allclose(inner.detach().numpy(), found[0], atol=1e-12)
    assert np.allclose(outer.detach().numpy(), found[1], atol=1e-12)


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_norms_stay_and_a_saved_state_goes_on_to_the_bit(kind: Any) -> None:
    """The norms are in the state: a model whose weights are elsewhere when it is built finds them there."""
    whole, first = gpt(parametrization="mup", base_width=8), gpt(parametrization="mup", base_width=8)
    before = {name: p.norm().item() for name, p in whole.named_parameters()}
    optimizers = [kind(lr=0.02, hyperball=True).build(model) for model in (whole, first)]
    for step in range(2):
        for model, optimizer in zip((whole, first), optimizers, strict=True):
            gradients(model, step)
            optimizer.step()
    second = gpt(parametrization="mup", base_width=8)
    second.load_state_dict(first.state_dict())
    resumed = kind(lr=0.02, hyperball=True).build(second)
    resumed.load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    for step in range(2, 4):
        for model, optimizer in ((whole, optimizers[0]), (second, resumed)):
            gradients(model, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    for name, p in whole.named_parameters():
        held = "blocks" in name and p.ndim == 2
        assert (p.norm().item() == pytest.approx(before[name], rel=1e-5)) == held, name


def test_a_matrix_without_a_gradient_waits_for_its_first_step() -> None:
    model = gpt()
    optimizer = AdamW(lr=0.1, hyperball=True).build(model)
    p = model.blocks[0].mlp.fc.weight
    gradients(model, 0)
    p.grad = None
    first = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, first) and p not in optimizer.state
    gradients(model, 1)
    optimizer.step()
    assert not torch.equal(p, first) and p.norm().item() == pytest.approx(first.norm().item(), rel=1e-5)
