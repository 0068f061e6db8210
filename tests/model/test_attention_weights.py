"""Weights of attention, which fused kernels do not hold: by NumPy in float64, and by what the kernels compute."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gptlab.model.attention import CausalSelfAttention
from gptlab.model.attention_weights import attention_at
from tests.model.test_options import BY_LENGTH, OPTIONS, spread

Array = np.ndarray[Any, Any]
KINDS: dict[str, dict[str, object]] = {
    "learned": {},
    "rope": {"positions": "rope"},
    "rope in part, window, soft cap": {
        **{"positions": "rope", "rope_fraction": 0.5, "window": 3, "attention_softcap": 1.0, "attention_scale": 0.7},
    },
    "rope in some, normalized": {"positions": "rope", "no_rope_every": 2, "qk_norm": True, "qk_norm_eps": 1e-6},
    "alibi": {"positions": "alibi", "qkv_clip": 0.8},
    "none": {"positions": "none"},
}
IDS = [3, 17, 4, 4, 30, 9, 49, 2]


def array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def normed(x: Array, layer: Any) -> Array:
    shares = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return shares * array(layer.weight) + array(layer.bias)


def linear(x: Array, layer: Any) -> Array:
    return x @ array(layer.weight).T + (0 if layer.bias is None else array(layer.bias))


def turned(x: Array, width: int) -> Array:
    """Rotate the first `width` components of (H, T, D) as complex numbers."""
    half = width // 2
    angle = np.arange(x.shape[1])[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    z = (x[..., :half] + 1j * x[..., half:width]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag, x[..., width:]], -1)


def by_numpy(gpt: Any, ids: list[int]) -> Array:
    """Return all weights (L, H, T, T) of a model of blocks with layer norms and ReLU."""
    c, T = gpt.config, len(ids)
    x, found = array(gpt.wte.weight)[ids], []
    if c.positions == "learned":
        x = x + array(gpt.wpe.weight)[:T]
    distance = np.arange(T)[:, None] - np.arange(T)[None]
    for number, block in enumerate(gpt.blocks):
        qkv = linear(normed(x, block.ln_1), block.attn.qkv)
        qkv = np.clip(qkv, -c.qkv_clip, c.qkv_clip) if c.qkv_clip else qkv
        heads = qkv.reshape(T, -1, c.head_dim).transpose(1, 0, 2)
        q, k, v = heads[: c.n_head], heads[c.n_head : -c.kv_heads], heads[-c.kv_heads :]
        if c.qk_norm:
            sizes = [np.sqrt((each**2).mean(-1, keepdims=True) + c.qk_norm_eps) for each in (q, k)]
            q, k = q / sizes[0] * array(block.attn.q_norm.weight), k / sizes[1] * array(block.attn.k_norm.weight)
        if c.positions == "rope" and not (c.no_rope_every and (number + 1) % c.no_rope_every == 0):
            width = int(c.head_dim * c.rope_fraction)
            q, k = turned(q, width), turned(k, width)
        k, v = (np.repeat(each, c.n_head // c.kv_heads, 0) for each in (k, v))
        scores = q @ k.transpose(0, 2, 1) * (c.attention_scale or c.head_dim**-0.5)
        scores = c.attention_softcap * np.tanh(scores / c.attention_softcap) if c.attention_softcap else scores
        if c.positions == "alibi":
            scores = scores - distance * 2.0 ** (-8 * np.arange(1, c.n_head + 1) / c.n_head)[:, None, None]
        hidden = (distance < 0) | (distance >= (c.window or T))
        weights = np.exp(scores - scores.max()) * ~hidden
        weights /= weights.sum(-1, keepdims=True)
        found.append(weights)
        x = x + linear((weights @ v).transpose(1, 0, 2).reshape(T, -1), block.attn.proj)
        x = x + linear(np.maximum(linear(normed(x, block.ln_2), block.mlp.fc), 0), block.mlp.proj)
    return np.stack(found)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_positions_in_float64(name: str) -> None:
    gpt = spread({"feed_forward": "relu", "block_size": 8, **KINDS[name]})
    expected = by_numpy(gpt, IDS)
    for at in (0, 4, 7):
        found = attention_at(gpt, IDS, at)
        assert found is not None and found.shape == (2, 3, 4, len(IDS))
        assert np.abs(found[0].numpy() - expected[:, :, at]).max() < 1e-4
        assert np.abs(found[1].numpy() - expected[:, :, :, at]).max() < 1e-4


@pytest.mark.parametrize("name", [*OPTIONS, *BY_LENGTH])
@torch.no_grad()
def test_the_weights_are_those_of_the_kernels(name: str) -> None:
    """With them, the values sum to what each layer's attention puts out."""
    gpt = spread({"positions": "rope", **BY_LENGTH[name]} if name in BY_LENGTH else OPTIONS[name])
    differences = []

    def compare(layer: CausalSelfAttention, inputs: Any, output: Tensor) -> None:
        v = layer._projected(*inputs[:2])[2].repeat_interleave(layer.n_head // layer.n_kv_head, dim=1)
        mixed = (layer.weights(*inputs[:3]) @ v).transpose(1, 2).flatten(2)
        differences.append((layer.proj(mixed) - output).abs().max())

    for block in gpt.blocks:
        block.attn.register_forward_hook(compare)
    gpt(torch.tensor([[*IDS, *IDS]]))
    assert len(differences) == 3 and max(differences) < 1e-4


def test_a_model_of_another_kind_has_none_and_hooks_are_removed() -> None:
    gpt = spread({})
    attention_at(gpt, IDS, 2)
    assert not any(module._forward_pre_hooks for module in gpt.modules())
    assert attention_at(torch.nn.Embedding(50, 50), IDS, 2) is None
