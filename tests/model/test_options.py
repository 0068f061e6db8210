"""Options of attention and positions in every way that a model reads: at once, with a cache, padded, by documents."""

from collections.abc import Callable

import pytest
import torch

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import generate
from gptlab.decoding.onednn import pack
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.planning.flops import flops_per_token

TINY = {"n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 24, "vocab_size": 50, "n_kv_head": 2}
OPTIONS: dict[str, dict[str, object]] = {
    "window": {"positions": "rope", "window": 5},
    "window, learned": {"window": 5, "full_attention_every": 2},
    "window, alibi": {"positions": "alibi", "window": 4},
    "alternating, soft caps": {
        **{"positions": "rope", "window": 5, "full_attention_every": 3, "rope_base_window": 500.0},
        **{"attention_softcap": 2.0, "attention_scale": 0.5, "norm": "zero_centered_rms", "norm_at": "both"},
        **{"feed_forward": "geglu", "embedding_scale": 5.0, "qk_norm": True, "qk_norm_eps": 1e-6},
    },
    "window in some": {"positions": "rope", "window": 5, "window_layers": [0, 2], "qkv_clip": 0.5},
    "soft cap": {"positions": "rope", "attention_softcap": 1.0},
    "parallel": {"positions": "rope", "residual": "parallel", "rope_fraction": 0.5, "head_bias": True, "tied": False},
    "one norm": {"positions": "rope", "residual": "parallel_one_norm", "feed_forward": "gelu_exact"},
    "after": {"positions": "rope", "norm": "rms", "norm_at": "after", "qk_norm": True, "qk_norm_over": "all"},
    "no positions in some": {"positions": "rope", "no_rope_every": 2, "head_size": 12, "norm": "plain_layer"},
    "scaled": {"positions": "rope", "residual_scale": 0.3, "logit_divisor": 4.0, "embedding_norm": True},
    "yarn": {"positions": "rope", "rope_type": "yarn", "rope_factor": 4.0, "rope_low_freq": 1.0,
             "rope_high_freq": 32.0, "rope_original": 8, "rope_magnitude": 1.2},
}  # fmt: skip


BY_LENGTH: dict[str, dict[str, object]] = {
    "dynamic": {"rope_type": "dynamic", "rope_factor": 40.0, "rope_original": 10, "rope_base": 20.0},
    "longrope": {"rope_type": "longrope", "rope_factor": 2.0, "rope_original": 10, "rope_magnitude": 1.2,
                 "rope_short": [1.0, 1.1, 1.2, 1.5], "rope_long": [1.5, 2.0, 4.0, 9.0]},
}  # fmt: skip


def spread(options: dict[str, object]) -> GPT:
    torch.manual_seed(3)
    gpt = GPT(GPTConfig(**TINY | options)).eval()  # type: ignore[arg-type]
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return gpt


@pytest.mark.parametrize("name", BY_LENGTH)
@torch.no_grad()
def test_rotations_by_the_length_of_a_text_are_those_of_the_text_alone(name: str) -> None:
    """In a window of several documents, and in a batch of unequal rows; the model tells lengths up to 10 from others."""
    gpt = spread({"positions": "rope", **BY_LENGTH[name]})
    idx = torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(1))
    documents = torch.tensor([[0] * 8 + [1] * 12] * 2)
    apart = torch.cat([gpt(idx[:, :8]), gpt(idx[:, 8:])], dim=1)
    assert torch.allclose(gpt(idx, documents=documents), apart, atol=1e-4)
    assert not torch.allclose(gpt(idx)[:, :8], apart[:, :8], atol=1e-2)
    shorter = torch.cat([torch.zeros(6, dtype=torch.long), idx[1, :6]])
    padded = gpt(torch.stack([idx[0, :12], shorter]), cache=gpt.new_cache(2, 12, torch.tensor([0, 6])))
    assert torch.allclose(padded[0, -1], gpt(idx[:1, :12])[0, -1], atol=1e-4)
    assert torch.allclose(padded[1, -1], gpt(idx[1:, :6])[0, -1], atol=1e-4)


@torch.no_grad()
def test_a_text_that_outgrows_the_original_context_is_read_again() -> None:
    gpt = spread({"positions": "rope", **BY_LENGTH["longrope"]})
    prompts = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]
    steps = generate(gpt, prompts, Greedy(), Limits(12, 24), [(0,), (1,)])
    found: list[list[int]] = [[], []]
    for step in steps:
        found[step.row].append(step.token)
    for prompt, tokens in zip(prompts, found, strict=True):
        text = list(prompt)
        for _ in range(12):
            text.append(int(gpt(torch.tensor([text]))[0, -1].argmax()))
        assert tokens == text[len(prompt) :]


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_all_ways_of_reading_agree(name: str) -> None:
    gpt, idx = spread(OPTIONS[name]), torch.randint(50, (2, 20), generator=torch.Generator().manual_seed(1))
    whole = gpt(idx)

    cache = gpt.new_cache(2, 20)
    steps = [gpt(part, cache=cache) for part in (idx[:, :9], idx[:, 9:12], *idx[:, 12:].split(1, dim=1))]
    for logits, end in zip(steps, (9, 12, *range(13, 21)), strict=True):
        assert torch.allclose(logits[:, -1], whole[:, end - 1], atol=1e-4)

    padding = torch.tensor([0, 6])
    shorter = torch.stack([idx[0], torch.cat([torch.zeros(6, dtype=torch.long), idx[1, :14]])])
    cache = gpt.new_cache(2, 20, padding)
    padded = [gpt(part, cache=cache)[:, -1] for part in (shorter[:, :12], *shorter[:, 12:].split(1, dim=1))]
    assert torch.allclose(padded[-1][0], whole[0, -1], atol=1e-4)
    assert torch.allclose(padded[-1][1], whole[1, 13], atol=1e-4)

    documents = torch.tensor([[0] * 8 + [1] * 12] * 2)
    apart = torch.cat([gpt(idx[:, :8]), gpt(idx[:, 8:])], dim=1)
    assert torch.allclose(gpt(idx, documents=documents), apart, atol=1e-4)

    low = spread(OPTIONS[name]).bfloat16()(idx).float()
    assert (low.softmax(-1) - whole.softmax(-1)).abs().mean() < 0.02

    pack(gpt)
    assert torch.allclose(gpt(idx), whole, atol=1e-4)


@torch.no_grad()
def test_a_window_hides_what_is_before_it() -> None:
    gpt = spread({"positions": "none", "window": 4, "n_layer": 1})
    idx = torch.randint(50, (1, 12))
    other = idx.clone()
    other[0, 3] = (idx[0, 3] + 1) % 50
    changed = (gpt(idx) - gpt(other)).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False] * 3 + [True] * 4 + [False] * 5


def test_operations_of_a_window_and_of_wide_heads() -> None:
    plain = GPTConfig(n_layer=4, n_head=4, n_embd=32, block_size=64, vocab_size=50)
    near = GPTConfig(n_layer=4, n_head=4, n_embd=32, block_size=64, vocab_size=50, window=16, full_attention_every=2)
    assert flops_per_token(plain) - flops_per_token(near) == 12 * 32 * 2 * (64 - 16)
    wide = GPTConfig(n_layer=4, n_head=4, n_embd=32, block_size=64, vocab_size=50, head_size=16)
    assert flops_per_token(wide) - flops_per_token(plain) == 4 * (6 * 4 * 32 * 32 + 12 * 32 * 64)


COMPILED: dict[str, dict[str, object]] = {
    "alibi": {"positions": "alibi", "window": 5, "full_attention_every": 2, "norm_at": "both", "embedding_norm": True},
    "gemma": {**OPTIONS["alternating, soft caps"], "logit_softcap": 3.0},
    "neox": {"positions": "rope", "residual": "parallel", "rope_fraction": 0.5, "qkv_bias": True, "qkv_clip": 0.7},
    "phi": {**OPTIONS["one norm"], "head_bias": True, "tied": False, "rope_fraction": 0.5},
    "olmo": {**OPTIONS["after"], "embedding_scale": 3.0, "no_rope_every": 2, "residual_scale": 0.5},
    "longrope": {"positions": "rope", **BY_LENGTH["longrope"], "window": 5, "window_layers": [1]},
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_as_eager(backend: str, some: Callable[..., list[str]], request: pytest.FixtureRequest) -> None:
    """Logits and gradients; inductor takes long for a layer, and has one, with the most options, with --faults=200."""
    if backend == "inductor" and request.config.getoption("faults") < 200:
        pytest.skip("takes long: with --faults=200; tests/training/test_devices.py has a run with it")
    idx = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(2, 12, 50, generator=torch.Generator().manual_seed(2))
    for name in ["gemma"] if backend == "inductor" else some(list(COMPILED), 2):
        torch._dynamo.reset()
        gpt, found = spread({**COMPILED[name], "n_layer": 1 if backend == "inductor" else 2}), []
        for model in (gpt, torch.compile(gpt, fullgraph=True, backend=backend)):
            gpt.zero_grad()
            logits = model(idx)
            (logits * weights).mean().backward()
            found.append([logits.detach(), *(p.grad.clone() for p in gpt.parameters() if p.grad is not None)])
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*found, strict=True)), name
