"""A ring of keys: every token attends to the last ones of a text of any length."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.model.gpt import GPT
from gptlab.model.positions import rotation
from gptlab.model.ring import RingCache, RingSlots
from tests.model.test_slots import gpt as model_of
from tests.model.test_slots import ids

T = 12
Array = np.ndarray[Any, np.dtype[np.float64]]
LLAMA: dict[str, object] = {"norm": "rms", "feed_forward": "swiglu", "tied": False, "bias": False}
KINDS: list[dict[str, object]] = [
    {"positions": "rope", "n_head": 4, "n_kv_head": 2, "qk_norm": True, **LLAMA},
    {"positions": "alibi", "n_head": 4, "n_layer": 3},
    {"positions": "none", "attention_softcap": 3.0},
    {"positions": "rope", "window": 5, "full_attention_every": 2, "rope_base_window": 100.0, "n_layer": 4},
    {"positions": "rope", "window": T + 3},
    {"positions": "alibi", "n_head": 2, "n_kv_head": 1, "window": 4},
]
SINKS: list[dict[str, object]] = [
    {**KINDS[0], "sinks": 4},
    {"positions": "rope", "n_layer": 3, "no_rope_every": 2, "attention_softcap": 3.0, "sinks": 1},
    {**KINDS[1], "sinks": 4},
    {**KINDS[2], "sinks": 3},
    {**KINDS[3], "sinks": 4},
    {"positions": "rope", "window": T - 1, "n_layer": 3, "full_attention_every": 3, "sinks": 4},
    {"positions": "alibi", "n_head": 2, "n_kv_head": 1, "window": T - 2, "sinks": 5},
    {"positions": "rope", "n_head": 2, "n_kv_head": 1, "sinks": T - 1},
]
ALL = [*KINDS, *SINKS]


def gpt(**kind: object) -> GPT:
    return model_of(block_size=T, **{key: value for key, value in kind.items() if key != "sinks"})


def sinks_of(kind: dict[str, object]) -> int:
    return int(str(kind.get("sinks", 0)))


def whole(model: GPT, text: Sequence[int], frequency: Array | None = None, sinks: int = 0) -> Array:
    """All logits (T, V) of one pass in float64 NumPy, in which a token sees T: the first `sinks`, and the last ones.

    What it sees is numbered from 0, and its positions are these numbers.
    """
    c, n = model.config, len(text)
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    H, G, D = c.n_head, c.kv_heads, c.head_dim
    distance = np.full((n, n), -1)
    for at in range(n):
        seen = [*range(min(sinks, at + 1)), *range(max(sinks, at - (T - sinks) + 1), at + 1)]
        distance[at, seen] = len(seen) - 1 - np.arange(len(seen))

    def normed(x: Array, name: str) -> Array:
        if f"{name}.bias" in w:
            x = x - x.mean(-1, keepdims=True)
        eps = torch.finfo(torch.float32).eps if "attn" in name else c.norm_eps
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"] + w.get(f"{name}.bias", 0)  # type: ignore[no-any-return]

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)  # type: ignore[no-any-return]

    def products(q: Array, k: Array, base: float | None) -> Array:
        """The products of queries with keys (H, T, D) that are turned by their distance; a pair is a complex number."""
        if base is None:
            return q @ k.swapaxes(1, 2)
        each = base ** (-np.arange(0, D, 2) / D) if frequency is None else frequency
        q, k = (x[..., : D // 2] + 1j * x[..., D // 2 :] for x in (q, k))
        pairs = q[:, :, None] * k.conj()[:, None] * np.exp(1j * distance[..., None] * each)
        return pairs.real.sum(-1)  # type: ignore[no-any-return]

    x = w["wte.weight"][list(text)]
    for layer in range(c.n_layer):
        block = f"blocks.{layer}"
        h = normed(x, f"{block}.ln_1")
        q, k, v = np.split(linear(h, f"{block}.attn.qkv").reshape(n, -1, D).swapaxes(0, 1), [H, H + G])
        if c.qk_norm:
            q, k = normed(q, f"{block}.attn.q_norm"), normed(k, f"{block}.attn.k_norm")
        near = c.has_window(layer)
        base = c.rope_base_window if near and c.rope_base_window else c.rope_base
        turned = c.positions == "rope" and c.has_positions(layer)
        scores = products(q, np.repeat(k, H // G, 0), base if turned else None) / math.sqrt(D)
        if c.attention_softcap:
            scores = c.attention_softcap * np.tanh(scores / c.attention_softcap)
        if c.positions == "alibi":
            scores = scores - 2.0 ** (-8 * np.arange(1, H + 1) / H)[:, None, None] * distance
        band = min(T, c.window) if near and c.window else T
        scores = np.where((distance >= 0) & (distance < band), scores, -np.inf)  # -1 is not in view
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = weights / weights.sum(-1, keepdims=True) @ np.repeat(v, H // G, 0)
        x = x + linear(y.swapaxes(0, 1).reshape(n, -1), f"{block}.attn.proj")
        read = normed(x, f"{block}.ln_2")
        h = linear(read, f"{block}.mlp.fc")
        if c.feed_forward == "swiglu":
            gate = linear(read, f"{block}.mlp.gate")
            h = h * gate / (1 + np.exp(-gate))
        else:
            h = 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"{block}.mlp.proj")
    head = "wte" if c.tied else "lm_head"
    return normed(x, "ln_f") @ w[f"{head}.weight"].T  # type: ignore[no-any-return]


def close(found: torch.Tensor, expected: Array) -> None:
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ALL, ids=str)
@torch.no_grad()
def test_five_windows_token_by_token_are_one_pass_with_a_band(kind: dict[str, object]) -> None:
    model, text = gpt(**kind), ids(5 * T, 1)
    sinks = sinks_of(kind)
    expected, cache = whole(model, text, sinks=sinks), model.new_cache(1, 5 * T, ring=T, sinks=sinks)
    buffers = [*cache.keys, *cache.values]
    for at, token in enumerate(text):
        close(model(torch.tensor([[token]]), cache=cache)[0, -1], expected[at])
    assert all(buffer.shape[2] == T for buffer in buffers)
    assert all(a is b for a, b in zip(buffers, [*cache.keys, *cache.values], strict=True))


@pytest.mark.parametrize("kind", ALL, ids=str)
@torch.no_grad()
def test_parts_of_any_length_are_one_pass(kind: dict[str, object]) -> None:
    """Some of them longer than the ring, one that begins in the middle of it."""
    model, text = gpt(**kind), ids(90, 2)
    sinks, end = sinks_of(kind), 0
    expected, cache = whole(model, text, sinks=sinks), model.new_cache(1, 99, ring=T, sinks=sinks)
    for n in (5, 3, 7, T, 1, 1, 2 * T + 5, 2, 1, T - 1):
        end += n
        close(model(torch.tensor([text[end - n : end]]), cache=cache)[0, -1], expected[end - 1])
    first = model.new_cache(1, 99, ring=T, sinks=sinks)
    close(model(torch.tensor([text]), cache=first)[0, -1], expected[-1])


@pytest.mark.parametrize("kind", ALL, ids=str)
@torch.no_grad()
def test_rows_of_different_lengths(kind: dict[str, object]) -> None:
    """Padded on the left: shorter than the ring, as long, longer; rows are dropped, swapped and doubled on the way."""
    model, rows, sinks = gpt(**kind), [ids(n, n) for n in (3, 30, T, 17)], sinks_of(kind)
    padding = torch.tensor([30 - len(row) for row in rows])
    idx = torch.tensor([[0] * (30 - len(row)) + row for row in rows])
    cache = model.new_cache(4, T, padding, ring=T, sinks=sinks)
    for part in idx.split(T, dim=1):
        logits = model(part, cache=cache)[:, -1]
    for step in range(2 * T):
        for row, text in enumerate(rows):
            close(logits[row], whole(model, text, sinks=sinks)[-1])
        if step in (5, 9):
            kept = [3, 0, 0, 2]
            cache.select(torch.tensor(kept))
            rows = [list(rows[row]) for row in kept]
        new = ids(4, step)
        for row, token in zip(rows, new, strict=True):
            row.append(token)
        logits = model(torch.tensor(new)[:, None], cache=cache)[:, -1]


@pytest.mark.parametrize("kind", ALL, ids=str)
@torch.no_grad()
def test_texts_that_join_and_leave(kind: dict[str, object]) -> None:
    model, rows, sinks = gpt(**kind), list[list[int]](), sinks_of(kind)
    slots = model.new_slots(ring=T, sinks=sinks)

    def join(*lengths: int) -> None:
        for n in lengths:
            cache = model.new_cache(1, n)
            rows.append(ids(n, 5 * n))
            model(torch.tensor([rows[-1]]), cache=cache)
            slots.put(cache, [0])

    def step(times: int, tokens: int = 1) -> None:
        for _ in range(times):
            new = [ids(tokens, len(row)) for row in rows]
            logits = model(torch.tensor(new), cache=slots)[:, -1]
            for row, text in enumerate(rows):
                text += new[row]
                close(logits[row], whole(model, text, sinks=sinks)[-1])

    join(2, T)
    step(T)
    join(5, T - 1)
    step(3)
    step(2, tokens=5)
    slots.select(torch.tensor([0, 3, 2]))
    rows[:] = [rows[row] for row in (0, 3, 2)]
    step(T + 2)
    slots.select(torch.tensor([1, 0]))
    rows[:] = [rows[row] for row in (1, 0)]
    step(3 * T)
    assert slots.lengths == [len(row) for row in rows] and min(slots.lengths) > 4 * T
    assert all(buffer.shape[2] == T for buffer in (*slots.keys, *slots.values))


@pytest.mark.parametrize("kind", [KINDS[0], *SINKS[:3]], ids=str)
@torch.no_grad()
def test_padded_rows_in_parts_of_any_length(kind: dict[str, object]) -> None:
    """Their first tokens come in one part or in several, and may be all that there is but padding."""
    model, lengths, sinks = gpt(**kind), (1, 30, 2, 26, 5, T), sinks_of(kind)
    rows = [ids(n, n) for n in lengths]
    expected = np.stack([whole(model, row, sinks=sinks)[-1] for row in rows])
    padding = torch.tensor([30 - n for n in lengths])
    idx = torch.tensor([[0] * (30 - len(row)) + row for row in rows])
    for width in (1, 2, 5, T, 29, 30):
        cache = model.new_cache(len(rows), 99, padding, ring=T, sinks=sinks)
        for part in idx.split(width, dim=1):
            logits = model(part, cache=cache)[:, -1]
        close(logits, expected)


@torch.no_grad()
def test_a_text_without_room_for_all_sinks() -> None:
    model = gpt(positions="rope")
    cache = model.new_cache(1, 2, ring=T, sinks=5)
    for token in ([3], [4]):
        logits = model(torch.tensor([token]), cache=cache)[0, -1]
    close(logits, whole(model, [3, 4])[-1])


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("type_", ["dynamic", "longrope", "linear", "yarn", "llama3"])
@torch.no_grad()
def test_scaled_rotations_are_those_of_a_text_as_long_as_the_ring(type_: str, sinks: int) -> None:
    """The rotations of the last T tokens of any text are those of a text of T; before it is full they are its own."""
    factors = {"rope_short": [1.0] * 4, "rope_long": [8.0, 3.0, 2.0, 1.5]}
    scaled = {"rope_type": type_, "rope_factor": 2.0, "rope_original": 8, "rope_high_freq": 1.3, "rope_low_freq": 1.0}
    model, text = gpt(positions="rope", **scaled, **(factors if type_ == "longrope" else {})), ids(3 * T, 4)
    c = model.config
    cos, _ = rotation(torch.arange(2).double(), c.rotated, c.rope_base, c.rope_scaling, length=torch.tensor([T]))
    expected = whole(model, text, np.arccos(cos[1].double().numpy()), sinks)
    assert np.abs(expected - whole(model, text, sinks=sinks))[-1].max() > 1e-3
    cache = model.new_cache(1, T, ring=T, sinks=sinks)
    assert isinstance(cache, RingCache)
    cache.announced = 2 * T + 3
    for part in torch.tensor([text[: 2 * T + 3]]).split(5, dim=1):
        logits = model(part, cache=cache)[0, -1]
    for at in range(2 * T + 3, 3 * T):
        np.testing.assert_allclose(logits, expected[at - 1], atol=2e-4)  # an arc cosine in fp32 is that exact
        logits = model(torch.tensor([[text[at]]]), cache=cache)[0, -1]


def test_rotations_far_out_keep_their_distances() -> None:
    """Of queries and keys 5 apart, at ten million: in float32 positions the angles would be off by up to half."""
    cos, sin = rotation(torch.tensor([10**7, 10**7 + 5]).double(), 8, 10000.0, None)
    turn = torch.complex(cos.double(), sin.double())
    frequency = (10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float32) / 8)).double()
    assert turn.dtype == torch.complex128
    torch.testing.assert_close(
        (turn[1] / turn[0]).angle(), 5 * frequency - 2 * math.pi * (5 * frequency > math.pi), atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_a_text_far_out_is_that_of_the_beginning() -> None:
    """Nothing of what came ten million tokens ago, or of the empty ring, reaches the last token of six windows."""
    model, text, found = gpt(positions="rope"), torch.tensor([ids(6 * T, 3)]), list[torch.Tensor]()
    for begin in (0, 10**7):
        cache = model.new_cache(1, T, ring=T)
        cache.length = begin
        model(text[:, :-1], cache=cache)
        found.append(model(text[:, -1:], cache=cache))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sinks", [0, 4, 70])
def test_a_ring_of_slots_grows_up_to_its_length_only(sinks: int) -> None:
    model = gpt(positions="alibi")
    slots = model.new_slots(ring=100, sinks=sinks)
    assert isinstance(slots, RingSlots)
    cache, widths = model.new_cache(1, 2), set[int]()
    model(torch.tensor([[1, 2]]), cache=cache)
    slots.put(cache, [0])
    for _ in range(300):
        model(torch.tensor([[3]]), cache=slots)
        widths.add(slots.keys[0].shape[2])
    assert widths == {max(64, sinks), 100}
