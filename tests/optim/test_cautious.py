"""optimizer.cautious_weight_decay: only weights that the update brings nearer to 0 decay (Chen et al. 2025)."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gptlab.errors import UserError
from gptlab.optim.optimizers import Adam, AdamW, Muon
from tests.optim.test_muon import gpt, gradients


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_three_steps_of_adamw_against_numpy(fused: bool, closure: bool) -> None:
    """The paper's algorithm in float64; a vector does not decay, and gradients of a closure are not known before it."""
    layer = nn.Linear(30, 20, dtype=torch.float64)
    config = AdamW(lr=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, eps=1e-6, fused=fused, cautious_weight_decay=True)
    optimizer = config.build(layer)
    w, b = (p.detach().numpy().copy() for p in (layer.weight, layer.bias))
    m, v = [0.0, 0.0], [0.0, 0.0]
    draw = np.random.default_rng(0)
    kept = 0
    for t in (1, 2, 3):
        g = [draw.normal(size=each.shape) for each in (w, b)]

        def give(g: Any = g) -> float:
            layer.weight.grad, layer.bias.grad = map(torch.from_numpy, g)
            return 7.0

        if closure:
            assert optimizer.step(give) == 7.0
        else:
            give()
            optimizer.step()
        m = [0.8 * a + 0.2 * each for a, each in zip(m, g, strict=True)]
        v = [0.9 * a + 0.1 * each**2 for a, each in zip(v, g, strict=True)]
        u = [a / (1 - 0.8**t) / (np.sqrt(c / (1 - 0.9**t)) + 1e-6) for a, c in zip(m, v, strict=True)]
        agree = u[0] * w >= 0
        kept += (~agree).sum()
        w, b = w - 0.1 * (u[0] + 0.5 * agree * w), b - 0.1 * u[1]
    assert 0.3 < kept / (3 * w.size) < 0.7
    assert np.allclose(layer.weight.detach().numpy(), w, atol=1e-12)
    assert np.allclose(layer.bias.detach().numpy(), b, atol=1e-12)


def test_matrices_of_muon_decay_where_the_update_agrees() -> None:
    """A step with decay, over one without from the same weights, is a decay of the weights that agree with it."""
    steps = []
    for decay in (0.0, 0.5):
        model = gpt()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradients(model, 0)
        Muon(lr=0.01, weight_decay=decay, cautious_weight_decay=decay > 0).build(model).step()
        steps.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    for name, p in before.items():
        agrees = (steps[0][name] * p <= 0) & (p.ndim == 2)  # the update is subtracted
        assert torch.allclose(steps[1][name] - steps[0][name], -0.01 * 0.5 * agrees * p, atol=1e-7), name
        assert p.ndim < 2 or 0.3 < agrees.float().mean() < 0.7


@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_a_saved_state_goes_on_to_the_bit(kind: type[AdamW]) -> None:
    def stepped(model: nn.Module, optimizer: Any, steps: range) -> list[Tensor]:
        for step in steps:
            gradients(model, step)  # type: ignore[arg-type]
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    config = kind(lr=0.02, cautious_weight_decay=True)
    whole, first, second = gpt(), gpt(), gpt()
    expected = stepped(whole, config.build(whole), range(4))
    optimizer = config.build(first)
    stepped(first, optimizer, range(2))
    second.load_state_dict(first.state_dict())
    resumed = config.build(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(map(torch.equal, expected, stepped(second, resumed, range(2, 4))))


@pytest.mark.parametrize("overflow", [0.0, 1.0])
def test_weights_stay_where_fp16_overflowed(overflow: float) -> None:
    """Then a scaler lets a fused optimizer skip its step, and tells it so by `found_inf`."""
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    optimizer: Any = AdamW(lr=0.1, weight_decay=0.5, cautious_weight_decay=True).build(layer)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(overflow)
    optimizer.step()
    assert torch.equal(layer.weight, before) == bool(overflow)


def test_parameters_without_gradients_stay() -> None:
    layer = nn.Linear(4, 4)
    before = layer.weight.detach().clone()
    optimizer = AdamW(lr=0.1, weight_decay=0.5, cautious_weight_decay=True).build(layer)
    optimizer.step()
    assert torch.equal(layer.weight, before) and layer.weight not in optimizer.state


def test_what_it_cannot_be_with() -> None:
    with pytest.raises(UserError, match=r"^cautious_weight_decay=True: needs decay beside the gradient.+; choose"):
        Adam(weight_decay=0.1, cautious_weight_decay=True)
    with pytest.raises(UserError, match=r"^cautious_weight_decay=True: .+ with weight_decay=0 .+; give weight_decay"):
        Muon(weight_decay=0.0, cautious_weight_decay=True)
