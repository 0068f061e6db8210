import sys

import numpy as np
import pytest
import torch
from torch import nn

from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import SGD, Adafactor, Adam, AdamW, Lion, Muon, OptimizerConfig
from gptlab.tasks.cross_entropy import cross_entropy


def test_decay_is_on_matrices_only() -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5))
    decayed, kept = AdamW(weight_decay=0.3).build(gpt).param_groups
    assert decayed["weight_decay"] == 0.3 and all(p.ndim >= 2 for p in decayed["params"])
    assert kept["weight_decay"] == 0 and all(p.ndim < 2 for p in kept["params"])
    every = {id(p) for group in (decayed, kept) for p in group["params"]}
    assert every == {id(p) for p in gpt.parameters()}


@pytest.mark.parametrize("decoupled", [True, False], ids=["AdamW", "Adam"])
def test_three_steps_against_numpy(decoupled: bool) -> None:
    """Loshchilov & Hutter 2019, algorithm 2, in float64: decay beside the adapted gradient, or within it (L2)."""
    kind = AdamW if decoupled else Adam
    settings = kind(lr=0.1, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.5, fused=False)
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    w = layer.weight.detach().numpy().copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    optimizer = settings.build(layer)
    rng = np.random.default_rng(0)
    for t in (1, 2, 3):
        g = rng.normal(size=w.shape)
        layer.weight.grad = torch.from_numpy(g.copy())
        optimizer.step()
        if decoupled:
            w *= 1 - 0.1 * 0.5
        else:
            g = g + 0.5 * w
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w -= 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-6)
    assert np.allclose(layer.weight.detach().numpy(), w, atol=1e-12)


def test_lion_against_numpy() -> None:
    """Chen et al. 2023, algorithm 2."""
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    w, m = layer.weight.detach().numpy().copy(), np.zeros((2, 3))
    optimizer = Lion(lr=0.1, weight_decay=0.5, beta1=0.9, beta2=0.99).build(layer)
    rng = np.random.default_rng(0)
    for _ in range(3):
        g = rng.normal(size=w.shape)
        layer.weight.grad = torch.from_numpy(g.copy())
        optimizer.step()
        w = w * (1 - 0.1 * 0.5) - 0.1 * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
    assert np.allclose(layer.weight.detach().numpy(), w, atol=1e-12)


def test_sgd_against_numpy() -> None:
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    w, m = layer.weight.detach().numpy().copy(), np.zeros((2, 3))
    optimizer = SGD(lr=0.1, momentum=0.9).build(layer)
    rng = np.random.default_rng(0)
    for _ in range(3):
        g = rng.normal(size=w.shape)
        layer.weight.grad = torch.from_numpy(g.copy())
        optimizer.step()
        m = 0.9 * m + g
        w -= 0.1 * m
    assert np.allclose(layer.weight.detach().numpy(), w, atol=1e-12)


EVERY = [AdamW(lr=0.01), Adam(lr=0.01), SGD(lr=0.1), Lion(lr=0.001), Adafactor(lr=0.05), Muon(lr=0.01)]


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: type(s).__name__)
def test_every_optimizer_learns_a_batch(settings: OptimizerConfig) -> None:
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=20))
    optimizer, idx = settings.build(gpt), torch.randint(20, (4, 9))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = cross_entropy(gpt(idx[:, :-1]), idx[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [(AdamW, "lr", 0.0), (AdamW, "lr", -1.0), (AdamW, "beta1", 1.0), (Adam, "weight_decay", -0.1), (AdamW, "eps", 0.0)]
    + [(SGD, "momentum", 1.0), (Lion, "beta2", -0.1), (Adafactor, "lr", 0.0), (Muon, "momentum", 1.5)],
)
def test_impossible_settings_say_so(kind: type, key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{key}={value}: .+; .+"):
        kind(**{key: value})


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match=r"^nesterov=True: looks ahead along a momentum of 0; "):
        SGD(momentum=0.0, nesterov=True)


def test_lion_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lion_pytorch", None)
    with pytest.raises(UserError, match=r"^optimizer=lion: needs lion_pytorch; pip install 'gptlab\[lion\]'$"):
        Lion().build(nn.Linear(2, 2))
