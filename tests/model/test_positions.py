import math

import numpy as np
import pytest
import torch

from gptlab.model.positions import alibi_bias, alibi_slopes, rotate, rotation
from gptlab.model.shape import RopeScaling


def test_rotation_is_multiplication_by_a_complex_number() -> None:
    x = torch.randn(1, 2, 6, 8)
    turned = rotate(x, rotation(torch.arange(6), 8, 10000.0, None))[0].numpy()
    a, b = np.split(x[0].double().numpy(), 2, axis=-1)
    angle = np.arange(6)[:, None] / 10000 ** (np.arange(0, 8, 2) / 8)
    z = (a + 1j * b) * np.exp(1j * angle)
    assert np.abs(turned - np.concatenate([z.real, z.imag], -1)).max() < 1e-6


def test_scores_depend_on_relative_positions_only() -> None:
    q, k = torch.randn(2, 1, 1, 5, 16).double()
    cos, sin = (part.double() for part in rotation(torch.arange(100), 16, 10000.0, None))
    scores = [
        rotate(q, (cos[s : s + 5], sin[s : s + 5])) @ rotate(k, (cos[s : s + 5], sin[s : s + 5])).mT for s in (0, 71)
    ]
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_llama_3_s_scaling() -> None:
    """By wavelengths, as published: long ones are stretched, short ones kept, those between interpolated."""
    scaling = RopeScaling(factor=32.0, low_freq=1.0, high_freq=4.0, original=8192)
    cos, sin = rotation(torch.arange(2), 64, 500000.0, scaling)
    for i in range(32):
        frequency = 500000.0 ** (-2 * i / 64)
        wavelength = 2 * math.pi / frequency
        if wavelength > 8192 / 1.0:
            expected = frequency / 32
        elif wavelength < 8192 / 4.0:
            expected = frequency
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected = (1 - smooth) * frequency / 32 + smooth * frequency
        assert math.atan2(sin[1, i], cos[1, i]) == pytest.approx(expected, rel=1e-4)


def test_longrope_divides_each_frequency_by_a_factor_of_its_own() -> None:
    scaling = RopeScaling(4.0, 1.0, 32.0, original=6, type="longrope", short=(1.0, 1.5), long=(2.0, 8.0))
    for T, factors in ((6, scaling.short), (7, scaling.long)):
        cos, sin = rotation(torch.arange(T), 4, 100.0, scaling, magnitude=1.25)
        angle = np.arange(T)[:, None] / (np.array(factors) * 100.0 ** np.array([0, 0.5]))
        assert np.abs(cos.numpy() - 1.25 * np.cos(angle)).max() < 1e-6
        assert np.abs(sin.numpy() - 1.25 * np.sin(angle)).max() < 1e-6


def test_alibi_slopes_of_the_paper() -> None:
    assert alibi_slopes(8) == pytest.approx([2.0**-i for i in range(1, 9)])
    assert alibi_slopes(12) == pytest.approx([2.0**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_alibi_bias_falls_with_the_distance_and_masks_what_is_ahead() -> None:
    bias = alibi_bias(8, torch.arange(4)[:, None] - torch.arange(4))
    assert bias[0].tolist()[3] == [-1.5, -1.0, -0.5, 0.0]
    assert bias[1, 3, 0] == -0.75
    assert (bias[:, 0, 1:] == -math.inf).all()
