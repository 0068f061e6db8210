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
from gptlab.model.gpt import GPT
from tests.decoding.test_continuous import finish, heard, row
from tests.model.test_ring import KINDS, T, gpt, whole
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

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, idx: Tensor) -> Tensor:
        return torch.stack([torch.tensor(whole(self.model, each)) for each in idx.tolist()])


def texts(
    model: nn.Module, prompts: Sequence[Sequence[int]], decoder: Decoder, limits: Limits
) -> list[tuple[list[int], list[float]]]:
    steps = list(generate(model, prompts, decoder, limits, [(7, i) for i in range(len(prompts))]))
    rows = [[step for step in steps if step.row == i] for i in range(len(prompts))]
    return [([step.token for step in each], [step.logprob for step in each]) for each in rows]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_text_is_that_of_reading_everything_with_a_band(kind: dict[str, object]) -> None:
    """Over three windows, prompts longer than one among them."""
    model, n = gpt(**kind), 3 * T
    found = texts(model, PROMPTS, TopK(k=5), Limits(n, T, overflow="ring"))
    for (token, logprob), expected in zip(found, texts(Banded(model), PROMPTS, TopK(k=5), Limits(n, 999)), strict=True):
        assert (token, len(token)) == (expected[0], n)
        assert logprob == pytest.approx(expected[1], abs=1e-5)
    same = [each for each, _ in found] == [each for each, _ in texts(model, PROMPTS, TopK(k=5), Limits(n, T))]
    assert same == (kind is KINDS[-1])  # two layers that look 4 tokens back reach no further than the window


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[3]], ids=str)
def test_beams(kind: dict[str, object]) -> None:
    model = gpt(**kind)
    for prompt in PROMPTS[:2]:
        found = beam_search(model, prompt, Beam(beams=3), Limits(T + 5, T, (7,), overflow="ring"))
        expected = beam_search(Banded(model), prompt, Beam(beams=3), Limits(T + 5, 999, (7,)))
        assert [each.ids for each in found] == [each.ids for each in expected]
        assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-5)


@pytest.mark.parametrize("kind", [*KINDS, *SCALED], ids=str)
def test_company_changes_no_text(kind: dict[str, object]) -> None:
    """One by one, in a batch whose rows end by themselves, and in one that they join and leave: the same."""
    model, drawn = gpt(**kind), random.Random(1)
    lengths = [3 * T, 2 * T, 3, 30, 9, T, 41, 25]
    prompts = [ids(n, n) for n in (4, T, 1, T - 1, 7, 7, 3, 2)]
    rows = [row(prompt, n, Sample(), ends=[7]) for prompt, n in zip(prompts, lengths, strict=True)]
    keys, ends = [each.key for each in rows], (7,)
    limits = [Limits(n, T, ends, overflow="ring") for n in lengths]
    alone = [
        [step.token for step in generate(model, [prompt], Sample(), each, [key])]
        for prompt, each, key in zip(prompts, limits, keys, strict=True)
    ]
    count = [0] * len(rows)

    def ended(i: int, token: int) -> bool:
        count[i] += 1
        return count[i] == lengths[i]

    steps = list(generate(model, prompts, Sample(), Limits(max(lengths), T, ends, overflow="ring"), keys, ended=ended))
    assert [[step.token for step in steps if step.row == i] for i in range(len(rows))] == alone
    batch, coming = ContinuousBatch(model, T, 3, ring=True), list(rows)
    while coming or batch.running or batch.waiting:
        if coming and drawn.random() < 0.3:
            batch.add([coming.pop(0)])
        batch.step()
    assert [heard(each).ids for each in rows] == alone
    assert max(map(len, alone)) > 2 * T


@pytest.mark.parametrize("kind", SCALED, ids=str)
def test_scaled_rotations_of_long_prompts_in_company(kind: dict[str, object]) -> None:
    """Beside a longer one, the first part that is read of a prompt is shorter than the old context."""
    model, limits = gpt(**kind), Limits(5, T, overflow="ring")
    prompts = [ids(30, 1), ids(13, 2)]
    for prompt, (tokens, logprobs) in zip(prompts, texts(model, prompts, Greedy(), limits), strict=True):
        alone = texts(model, [prompt], Greedy(), limits)[0]
        assert tokens == alone[0] and logprobs == pytest.approx(alone[1], abs=1e-5)


def test_samples_of_one_prompt() -> None:
    model, limits = gpt(positions="alibi"), Limits(2 * T, T, overflow="ring")
    prompts, keys = [PROMPTS[1], PROMPTS[0], PROMPTS[1]], [(1, 0), (1, 1), (1, 2)]
    steps = list(generate(model, prompts, Sample(), limits, keys))
    for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
        alone = generate(model, [prompt], Sample(), limits, [key])
        assert [step.token for step in steps if step.row == i] == [step.token for step in alone]


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], SCALED[1]], ids=str)
def test_a_token_past_the_window_is_all_that_is_read(kind: dict[str, object]) -> None:
    """Five windows, in the memory of one; what is longer than the old context of longrope is read a second time."""
    model, read = gpt(**kind), list[int]()
    model.blocks[0].register_forward_hook(lambda module, inputs, out: read.append(inputs[0].shape[:2].numel()))
    texts(model, [[1, 2, 3]], Greedy(), Limits(5 * T, T, overflow="ring"))
    again = [8] if kind is SCALED[1] else []
    assert [n for n in read if n > 1] == [3, *again] and len(read) == 5 * T
    context, text = Context(model, Limits(5 * T, T, overflow="ring")), [1, 2, 3]
    sizes = set[int]()
    with torch.no_grad():
        for _ in range(5 * T):
            text.append(int(context.read([text])[0].argmax()))
            sizes.add(sum(buffer.untyped_storage().nbytes() for buffer in (*context.cache.keys, *context.cache.values)))
    assert len(sizes) == 1
    served = row([1, 2, 3], 5 * T)
    read.clear()
    finish(ContinuousBatch(model, T, 2, ring=True), [served])
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
