import numpy as np
import pytest
import torch
from torch import nn

from gptlab.model.gpt import GPT, GPTConfig
from gptlab.optim.optimizers import AdamW


def test_decay_is_on_matrices_only() -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5))
    decayed, kept = AdamW(weight_decay=0.3).build(gpt).param_groups
    assert decayed["weight_decay"] == 0.3 and all(p.ndim >= 2 for p in decayed["params"])
    assert kept["weight_decay"] == 0 and all(p.ndim < 2 for p in kept["params"])
    every = {id(p) for group in (decayed, kept) for p in group["params"]}
    assert every == {id(p) for p in gpt.parameters()}


def test_three_steps_against_numpy() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, in float64."""
    settings = AdamW(lr=0.1, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.5, fused=False)
    layer = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    w = layer.weight.detach().numpy().copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    optimizer = settings.build(layer)
    rng = np.random.default_rng(0)
    for t in (1, 2, 3):
        g = rng.normal(size=w.shape)
        layer.weight.grad = torch.from_numpy(g)
        optimizer.step()
        w *= 1 - 0.1 * 0.5
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w -= 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-6)
    assert np.allclose(layer.weight.detach().numpy(), w, atol=1e-12)


@pytest.mark.parametrize("field", [{"lr": 0.0}, {"lr": -1.0}, {"beta1": 1.0}, {"weight_decay": -0.1}, {"eps": 0.0}])
def test_impossible_settings_say_so(field: dict[str, float]) -> None:
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"^{name}={value}: .+; .+"):
        AdamW(**field)
