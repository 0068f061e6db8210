"""Texts that outgrow the context in a ring: those of a model that reads everything, with a band as a mask."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gptlab.decoding.beam import beam_search
from gptlab.decoding.context import Context, Limits
from gptlab.decoding.continuous import ContinuousBatch
from gptlab.decoding.decoders import Beam, Decoder, Greedy, Sample, TopK
from gptlab.decoding.generate import generate
from gptlab.decoding.int8 import is_offered, pack_int8
from gptlab.decoding.onednn import pack
from gptlab.errors import UserError
from gptlab.model.attention import KVCache
from gptlab.model.gpt import GPT
from gptlab.model.slots import SlotCache
from tests.decoding.test_continuous import finish, heard, row
from tests.model.test_ring import ALL, KINDS, SINKS, T, gpt, sinks_of, whole
from tests.model.test_slots import ids

PROMPTS = [ids(n, n) for n in (4, 2 * T + 3, 1, T, 17)]
SCALED: list[dict[str, object]] = [
    {"positions": "rope", "rope_type": "dynamic", "rope_factor": 2.0, "rope_original": 7},
    {
        **{"positions": "rope", "rope_type": "longrope", "rope_factor": 2.0, "rope_original": 7},
        **{"rope_short": [1.0] * 4, "rope_long": [8.0] * 4},
    },
]


class Banded(nn.Module):
    """A model without a cache: one pass over all of a text, in NumPy."""

    def __init__(self, model: GPT, sinks: int = 0) -> None:
        super().__init__()
        self.model, self.config, self.sinks = model, model.config, sinks

    def forward(self, idx: Tensor) -> Tensor:
        return torch.stack([torch.tensor(whole(self.model, each, sinks=self.sinks)) for each in idx.tolist()])


def texts(
    model: nn.Module, prompts: Sequence[Sequence[int]], decoder: Decoder, limits: Limits
) -> list[tuple[list[int], list[float]]]:
    steps = list(generate(model, prompts, decoder, limits, [(7, i) for i in range(len(prompts))]))
    rows = [[step for step in steps if step.row == i] for i in range(len(prompts))]
    return [([step.token for step in each], [step.logprob for step in each]) for each in rows]


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_a_text_is_that_of_reading_everything_with_a_band(kind: dict[str, object]) -> None:
    """Over three windows, prompts longer than one among them."""
    model, n, sinks = gpt(**kind), 3 * T, sinks_of(kind)
    found = texts(model, PROMPTS, TopK(k=5), Limits(n, T, overflow="ring", sinks=sinks))
    whole_texts = texts(Banded(model, sinks), PROMPTS, TopK(k=5), Limits(n, 999))
    for (token, logprob), expected in zip(found, whole_texts, strict=True):
        assert (token, len(token)) == (expected[0], n)
        assert logprob == pytest.approx(expected[1], abs=1e-5)
    same = [each for each, _ in found] == [each for each, _ in texts(model, PROMPTS, TopK(k=5), Limits(n, T))]
    assert same == (kind is KINDS[-1])  # two layers that look 4 tokens back reach no further than the window


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[3], *SINKS[:3]], ids=str)
def test_beams(kind: dict[str, object]) -> None:
    model, sinks = gpt(**kind), sinks_of(kind)
    for prompt in PROMPTS[:2]:
        found = beam_search(model, prompt, Beam(beams=3), Limits(T + 5, T, (7,), overflow="ring", sinks=sinks))
        expected = beam_search(Banded(model, sinks), prompt, Beam(beams=3), Limits(T + 5, 999, (7,)))
        assert [each.ids for each in found] == [each.ids for each in expected]
        assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-5)


@pytest.mark.parametrize("kind", [*ALL, *SCALED, *({**kind, "sinks": 4} for kind in SCALED)], ids=str)
def test_company_changes_no_text(kind: dict[str, object]) -> None:
    """One by one, in a batch whose rows end by themselves, and in one that they join and leave: the same."""
    model, drawn, sinks = gpt(**kind), random.Random(1), sinks_of(kind)
    lengths = [3 * T, 2 * T, 3, 30, 9, T, 41, 25]
    prompts = [ids(n, n) for n in (4, T, 1, T - 1, 7, 7, 3, 2)]
    rows = [row(prompt, n, Sample(), ends=[7]) for prompt, n in zip(prompts, lengths, strict=True)]
    keys, ends = [each.key for each in rows], (7,)
    limits = [Limits(n, T, ends, overflow="ring", sinks=sinks) for n in lengths]
    alone = [
        [step.token for step in generate(model, [prompt], Sample(), each, [key])]
        for prompt, each, key in zip(prompts, limits, keys, strict=True)
    ]
    count = [0] * len(rows)

    def ended(i: int, token: int) -> bool:
        count[i] += 1
        return count[i] == lengths[i]

    longest = Limits(max(lengths), T, ends, overflow="ring", sinks=sinks)
    steps = list(generate(model, prompts, Sample(), longest, keys, ended=ended))
    assert [[step.token for step in steps if step.row == i] for i in range(len(rows))] == alone
    batch, coming = ContinuousBatch(model, T, 3, ring=True, sinks=sinks), list(rows)
    while coming or batch.running or batch.waiting:
        if coming and drawn.random() < 0.3:
            batch.add([coming.pop(0)])
        batch.step()
    assert [heard(each).ids for each in rows] == alone
    assert max(map(len, alone)) > 2 * T


@pytest.mark.parametrize("sinks", [0, 4])
@pytest.mark.parametrize("kind", SCALED, ids=str)
def test_scaled_rotations_of_long_prompts_in_company(kind: dict[str, object], sinks: int) -> None:
    """Beside a longer one, the first part that is read of a prompt is shorter than the old context."""
    model, limits = gpt(**kind), Limits(5, T, overflow="ring", sinks=sinks)
    prompts = [ids(30, 1), ids(13, 2)]
    for prompt, (tokens, logprobs) in zip(prompts, texts(model, prompts, Greedy(), limits), strict=True):
        alone = texts(model, [prompt], Greedy(), limits)[0]
        assert tokens == alone[0] and logprobs == pytest.approx(alone[1], abs=1e-5)


@pytest.mark.parametrize("kind", [KINDS[1], SINKS[0], SINKS[2]], ids=str)
def test_samples_of_one_prompt(kind: dict[str, object]) -> None:
    model, limits = gpt(**kind), Limits(2 * T, T, overflow="ring", sinks=sinks_of(kind))
    prompts, keys = [PROMPTS[1], PROMPTS[0], PROMPTS[1]], [(1, 0), (1, 1), (1, 2)]
    steps = list(generate(model, prompts, Sample(), limits, keys))
    for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
        alone = generate(model, [prompt], Sample(), limits, [key])
        assert [step.token for step in steps if step.row == i] == [step.token for step in alone]


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], SCALED[1], SINKS[0], SINKS[2]], ids=str)
def test_a_token_past_the_window_is_all_that_is_read(kind: dict[str, object]) -> None:
    """Five windows, in the memory of one; what is longer than the old context of longrope is read a second time."""
    model, read, sinks = gpt(**kind), list[int](), sinks_of(kind)
    limits = Limits(5 * T, T, overflow="ring", sinks=sinks)
    model.blocks[0].register_forward_hook(lambda module, inputs, out: read.append(inputs[0].shape[:2].numel()))
    texts(model, [[1, 2, 3]], Greedy(), limits)
    again = [8] if kind is SCALED[1] else []
    assert [n for n in read if n > 1] == [3, *again] and len(read) == 5 * T
    context, text = Context(model, limits), [1, 2, 3]
    sizes = set[int]()
    with torch.no_grad():
        for _ in range(5 * T):
            text.append(int(context.read([text])[0].argmax()))
            sizes.add(sum(buffer.untyped_storage().nbytes() for buffer in (*context.cache.keys, *context.cache.values)))
    assert len(sizes) == 1
    served = row([1, 2, 3], 5 * T)
    read.clear()
    finish(ContinuousBatch(model, T, 2, ring=True, sinks=sinks), [served])
    assert [n for n in read if n > 1] == [3, *again] and heard(served).ids == text[3:]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1]], ids=str)
@torch.no_grad()
def test_precisions(precision: str, kind: dict[str, object]) -> None:
    """Against one pass in the same precision, in layers with a window as long as the ring."""
    if precision == "int8" and not is_offered():
        pytest.skip("this PyTorch has no int8")
    model, limits = gpt(**kind), Limits(3 * T, T, overflow="ring")
    if precision == "bf16":
        pack(model.bfloat16())
    else:
        pack_int8(model)
    prompts = PROMPTS[:3]
    found = texts(model, prompts, Greedy(), limits)
    model.config = replace(model.config, window=T)
    for prompt, (tokens, logprobs) in zip(prompts, found, strict=True):
        logits = model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=0.03 if precision == "bf16" else 1e-5, rtol=0)


def test_learned_positions_and_models_without_a_ring_are_refused() -> None:
    model, limits = gpt(positions="learned"), Limits(5, T, overflow="ring")
    why = rf"^overflow=ring: learned positions end at block_size={T}; choose crop, or a model with model.positions="
    with pytest.raises(UserError, match=why):
        texts(model, [[1]], Greedy(), limits)
    with pytest.raises(UserError, match=why):
        beam_search(model, [1], Beam(), limits)
    with pytest.raises(UserError, match=why):
        ContinuousBatch(model, T, 2, ring=True)
    with pytest.raises(UserError, match="^overflow=ring: the model's cache keeps all of a text; "):
        texts(Banded(gpt(positions="rope")), [[1]], Greedy(), limits)
    with pytest.raises(UserError, match="^overflow=wrap: no such option; choose one of crop, ring, refuse"):
        Limits(5, T, overflow="wrap")


def test_sinks_that_leave_no_place_or_that_nothing_keeps_are_refused() -> None:
    for sinks in (T, 10**30):
        why = f"^sinks={sinks}: leaves no place for other tokens in block_size={T}; 4 is usual$"
        with pytest.raises(UserError, match=why):
            Limits(5, T, overflow="ring", sinks=sinks)
        with pytest.raises(UserError, match=why):
            ContinuousBatch(gpt(positions="rope"), T, 2, ring=True, sinks=sinks)
    with pytest.raises(UserError, match="^sinks=-1: is negative; "):
        Limits(5, T, overflow="ring", sinks=-1)
    with pytest.raises(UserError, match="^sinks=4: have no effect with overflow=crop; add overflow=ring"):
        Limits(5, T, sinks=4)


class WithoutSinks(GPT):
    """A model of another package, whose caches have a ring and know no sinks."""

    has_sinks = False

    def new_cache(self, batch: int, size: int, padding: Tensor | None = None, ring: int | None = None) -> KVCache:  # type: ignore[override]
        return super().new_cache(batch, size, padding, ring)

    def new_slots(self, ring: int | None = None) -> SlotCache:  # type: ignore[override]
        return super().new_slots(ring)


def test_a_model_whose_ring_has_no_sinks() -> None:
    own = gpt(positions="rope")
    model = WithoutSinks(own.config).eval()  # type: ignore[arg-type]
    model.load_state_dict(own.state_dict())
    limits = Limits(2 * T, T, overflow="ring")
    assert texts(model, PROMPTS, Greedy(), limits) == texts(own, PROMPTS, Greedy(), limits)
    served = row([1, 2, 3], 2 * T, Greedy())
    finish(ContinuousBatch(model, T, 2, ring=True), [served])
    assert len(heard(served).ids) == 2 * T
    why = "^sinks=4: the model's cache keeps the last tokens of a text only; leave them out$"
    with pytest.raises(UserError, match=why):
        texts(model, PROMPTS, Greedy(), replace(limits, sinks=4))
    with pytest.raises(UserError, match=why):
        ContinuousBatch(model, T, 2, ring=True, sinks=4)
