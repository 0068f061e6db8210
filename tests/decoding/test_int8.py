"""Layers with weights of int8, beside the same sums in NumPy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from gptlab.decoding import int8
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import generate
from gptlab.decoding.int8 import Int8Linear, pack_int8, quantized
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT

pytestmark = pytest.mark.skipif(not int8.is_offered(), reason="this PyTorch has no layers of int8")


def rounded(x: np.ndarray, weight: np.ndarray, levels: int) -> np.ndarray:
    """The output of whole numbers: weights of 8 bits by rows, inputs of as many levels from -1 to 1 by positions."""
    scales = np.abs(weight).max(1, keepdims=True) / 127
    largest = np.abs(x).max(1, keepdims=True)
    step = 2 / levels
    inputs = np.clip(np.rint(x / largest / step), -(levels + 1) // 2, levels // 2)
    return (inputs @ np.rint(weight / scales).T) * step * largest * scales.T


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_the_sums_of_whole_numbers(bias: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "saturates", lambda: narrow)
    linear = nn.Linear(96, 40, bias=bias)
    x = torch.randn(5, 7, 96) * torch.logspace(-3, 3, 7)[:, None]  # each position has a scale of its own
    found = Int8Linear(linear)(x).double().numpy().reshape(35, 40)
    added = 0 if linear.bias is None else linear.bias.double().numpy()
    exact = x.double().numpy().reshape(35, 96) @ linear.weight.double().numpy().T + added
    expected = (
        rounded(x.double().numpy().reshape(35, 96), linear.weight.double().numpy(), 127 if narrow else 255) + added
    )
    sizes = np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 0.004 * sizes.max()  # an input halfway between two levels goes either way
    errors = np.linalg.norm(found - exact, axis=1, keepdims=True) / sizes
    assert (0 < errors).all() and errors.max() < (0.025 if narrow else 0.015)


@torch.no_grad()
def test_weights_are_whole_numbers_with_a_scale_a_row() -> None:
    weights, scales = quantized(torch.tensor([[0.5, -1.27, 0.014], [0.0, 0.0, 0.0]]))
    assert weights.tolist() == [[50, -127, 1], [0, 0, 0]] and scales[0] == pytest.approx(0.01)
    layer = Int8Linear(nn.Linear(3, 2))
    assert torch.equal(layer(torch.zeros(1, 3)), layer.bias[None]) and layer.nbytes == 2 * (3 + 2) + 8 + 8


@torch.no_grad()
def test_no_position_has_a_part_in_another_ones_output() -> None:
    layer, x = Int8Linear(nn.Linear(64, 32)), torch.randn(9, 64)
    x[4] *= 1000
    together = layer(x)
    assert all(torch.equal(layer(x[i : i + 1])[0], together[i]) for i in range(9))


@torch.no_grad()
def test_a_text_is_the_same_alone_and_in_a_batch() -> None:
    options = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 32, "vocab_size": 99, "feed_forward": "swiglu"}
    gpt = GPT(GPTConfig(**options)).eval()  # type: ignore[arg-type]
    packed = copy.deepcopy(gpt)
    pack_int8(packed)
    assert not any(type(module) is nn.Linear for module in packed.modules())
    idx = torch.randint(99, (3, 20))
    assert torch.allclose(packed(idx), gpt(idx), atol=0.02)

    def texts(prompts: list[list[int]]) -> list[list[int]]:
        steps = [*generate(packed, prompts, Greedy(), Limits(12, 32), [(0, i) for i in range(len(prompts))])]
        return [[step.token for step in steps if step.row == row] for row in range(len(prompts))]

    prompts = [[1, 2], [5, 6, 7, 8, 9], [40]]
    assert texts(prompts) == [texts([prompt])[0] for prompt in prompts]


@torch.no_grad()
def test_a_position_that_is_not_finite_has_no_finite_output_and_spoils_no_other() -> None:
    layer, x = Int8Linear(nn.Linear(64, 32)), torch.randn(9, 64)
    alone = layer(x)
    for value in (float("nan"), float("inf"), -float("inf")):
        damaged = x.clone()
        damaged[4, 7] = value
        found = layer(damaged)
        assert not found[4].isfinite().any()
        assert torch.equal(found[[0, 1, 2, 3, 5, 6, 7, 8]], alone[[0, 1, 2, 3, 5, 6, 7, 8]])
