import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gptlab.decoding.beam import beam_search
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Beam, Decoder, Greedy, Sample, TopK
from gptlab.decoding.generate import Step, continue_ids, draw, draw_key, finite_rows, generate
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.loglikelihood import loglikelihoods
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.randomness import uniform

T = 8
PROMPTS = [[3, 1, 4], [1], [2, 7, 1, 8, 2], [5, 5]]
KINDS = [
    {"positions": "learned"},
    {"positions": "rope", "n_kv_head": 1, "norm": "rms", "feed_forward": "swiglu", "qk_norm": True},
    {"positions": "alibi"},
    {"positions": "none", "logit_softcap": 5.0},
]


def gpt(n_vocab: int = 50, **options: object) -> GPT:
    torch.manual_seed(0)
    config = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": T, "vocab_size": n_vocab, **options}
    model = GPT(GPTConfig(**config)).eval()  # type: ignore[arg-type]
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def rows_of(steps: Sequence[Step], n: int) -> list[list[int]]:
    return [[step.token for step in steps if step.row == row] for row in range(n)]


def texts(model: GPT, prompts: Sequence[Sequence[int]], decoder: Decoder, n: int, **limits: object) -> list[list[int]]:
    keys = [(7, i, 0) for i in range(len(prompts))]
    limit = Limits(n, T, **limits)  # type: ignore[arg-type]
    return rows_of(list(generate(model, prompts, decoder, limit, keys)), len(prompts))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind["positions"]))
def test_greedy_appends_the_argmax_again_and_again_beyond_the_context_too(kind: dict[str, object]) -> None:
    """Against a loop that reads the last T ids anew for every token."""
    model = gpt(**kind)
    for prompt, new in zip(PROMPTS, texts(model, PROMPTS, Greedy(), 20), strict=True):
        ids = list(prompt)
        for token in new:
            assert token == model(torch.tensor([ids[-T:]]))[0, -1].argmax()
            ids.append(token)
        assert len(new) == 20


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind["positions"]))
def test_reading_in_parts_is_reading_at_once(kind: dict[str, object]) -> None:
    model, idx = gpt(**kind), torch.randint(50, (3, T))
    cache = model.new_cache(3, T)
    for start, stop in [(0, 3), (3, 4), (4, 7), (7, 8)]:
        logits = model(idx[:, start:stop], cache=cache)
        assert torch.allclose(logits[:, -1], model(idx[:, :stop])[:, -1], atol=1e-5)


def test_a_text_is_the_same_alone_in_a_batch_and_on_another_day() -> None:
    model, decoder = gpt(), TopK(k=20)
    batch = texts(model, PROMPTS * 2, decoder, 15)
    assert texts(model, PROMPTS * 2, decoder, 15) == batch
    for i, prompt in enumerate(PROMPTS * 2):
        alone = generate(model, [prompt], decoder, Limits(15, T), [(7, i, 0)])
        assert [step.token for step in alone] == batch[i]
    assert batch[:4] != batch[4:]  # other keys, other texts


def test_draws_depend_on_the_prompt_s_text_and_not_on_its_place() -> None:
    """Prompts in another order, one of them left out: every one keeps its text; another seed, prompt or sample differs."""
    model, limits = gpt(), Limits(15, T)

    def of(order: Sequence[int], seed: int = 7) -> dict[int, list[int]]:
        keys = [draw_key(seed, f"prompt {i}", 0) for i in order]
        steps = list(generate(model, [PROMPTS[i] for i in order], Sample(), limits, keys))
        return dict(zip(order, rows_of(steps, len(order)), strict=True))

    first = of([0, 1, 2, 3])
    assert of([3, 1, 0, 2]) == first and of([2, 0]) == {2: first[2], 0: first[0]}
    assert of([0, 1, 2, 3], seed=8) != first
    numbers = {
        key: draw(torch.full((1, 10**6), 1e-6), [(*key, 0)]).item()
        for key in (draw_key(7, "a", 0), draw_key(7, "b", 0), draw_key(7, "a", 1), draw_key(8, "a", 0))
    }
    assert len(set(numbers.values())) == 4


def test_every_row_ends_by_itself() -> None:
    model = gpt()
    free = texts(model, PROMPTS, Greedy(), 20)
    eot = free[0][4]
    for whole, cut in zip(free, texts(model, PROMPTS, Greedy(), 20, ends=(eot,)), strict=True):
        assert cut == (whole[: whole.index(eot)] if eot in whole else whole)
    seen: list[int] = []

    def ended(row: int, token: int) -> bool:
        seen.append(row)
        return row == 1 and seen.count(1) == 3

    steps = list(generate(model, PROMPTS, Greedy(), Limits(20, T), [(0,)] * 4, ended=ended))
    assert rows_of(steps, 4) == [free[0], free[1][:3], free[2], free[3]]


def test_a_short_prompt_goes_on_where_a_long_one_has_ended() -> None:
    """The columns of the long one stay in the cache, which is full before the short text has filled the context."""
    model, prompts, limits = gpt(), [[2, 7, 1, 8, 2], [1]], Limits(T - 1, T)
    keys = [(7, i, 0) for i in range(2)]
    steps = generate(model, prompts, Greedy(), limits, keys, ended=lambda row, token: row == 0)
    assert rows_of(list(steps), 2)[1] == continue_ids(model, [1], Greedy(), limits, keys[1])


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn() -> None:
    model = gpt()
    assert (
        set(texts(model, [[1]], Sample(), 300, n_vocab=5)[0])
        == set(range(5))
        < set(texts(model, [[1]], Sample(), 300)[0])
    )


def test_log_probabilities_are_the_model_s_and_sum_to_the_likelihood() -> None:
    model, prompt = gpt(), [3, 1, 4]
    steps = list(generate(model, [prompt], Sample(0.5), Limits(4, T), [(1,)]))
    new = [step.token for step in steps]
    logprob, greedy = loglikelihoods(model, [(prompt, new)], T)[0]
    assert sum(step.logprob for step in steps) == pytest.approx(logprob, abs=1e-4)
    assert greedy == (new == texts(model, [prompt], Greedy(), 4)[0])
    assert loglikelihoods(model, [(prompt, texts(model, [prompt], Greedy(), 4)[0])], T)[0][1]


def test_a_likelihood_by_hand_and_with_the_oldest_context_dropped() -> None:
    model, context, continuation = gpt(), list(range(20)), [4, 5]
    ids = [*context, *continuation][-T - 1 :]
    logprobs = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    expected = (logprobs[-2, 4] + logprobs[-1, 5]).item()
    assert loglikelihoods(model, [(context, continuation)], T)[0][0] == pytest.approx(expected, abs=1e-5)


def test_draws_follow_the_distribution_and_never_leave_it() -> None:
    """Chi-square with 9 degrees of freedom: 27.9 is exceeded once in a thousand."""
    probs = torch.tensor([0.0, 0.3, 0.05, 0.15, 0.0, 0.2, 0.1, 0.05, 0.1, 0.02, 0.02, 0.01])
    n = 20_000
    counts = draw(probs.expand(n, -1), [(1, i) for i in range(n)]).bincount(minlength=12)
    inside = probs > 0
    assert counts[~inside].sum() == 0
    assert float(((counts - n * probs) ** 2)[inside].div(n * probs[inside]).sum()) < 27.9
    edge = torch.tensor([[0.0, 1.0, 0.0]])
    assert set(draw(edge.expand(500, -1), [(2, i) for i in range(500)]).tolist()) == {1}


def test_a_draw_is_the_token_in_whose_share_its_number_lies_and_changes_no_probabilities() -> None:
    """Against sums in NumPy of as many numbers as GPT-2 has tokens, in two dtypes."""
    probs, keys = torch.randn(5, 50257, dtype=torch.float64).softmax(-1), [(3, i) for i in range(5)]
    for given in (probs, probs.float()):
        kept = given.clone()
        ends = given.numpy().astype(np.float64).cumsum(1)
        numbers = [uniform(3, "draw", i) for i in range(5)]
        expected = [int(np.searchsorted(end, u * end[-1], side="right")) for end, u in zip(ends, numbers, strict=True)]
        assert draw(given, keys).tolist() == expected and torch.equal(given, kept)


def test_rows_of_numbers_that_are_not_finite() -> None:
    logits = torch.randn(5, 40)
    for row, value in ((1, torch.nan), (2, torch.inf), (4, -torch.inf)):
        logits[row, 7] = value
    assert finite_rows(logits).tolist() == [True, False, False, True, False]


@pytest.mark.slow
def test_sampled_texts_follow_the_model() -> None:
    """The frequencies of all texts of two tokens over five, against their exact probabilities."""
    model, n = gpt(5), 4000
    new = rows_of(list(generate(model, [[1]] * n, Sample(), Limits(2, T), [(3, i) for i in range(n)])), n)
    chi2 = 0.0
    for pair in itertools.product(range(5), repeat=2):
        expected = n * math.exp(loglikelihoods(model, [([1], pair)], T)[0][0])
        chi2 += (sum(tuple(text) == pair for text in new) - expected) ** 2 / expected
    assert chi2 < 51.2  # 24 degrees of freedom, once in a thousand


def test_logits_processors_see_prompt_and_text() -> None:
    model = gpt()
    steps = generate(model, [[1, 2]], Greedy(), Limits(30, T), [(0,)], LogitsProcessors(no_repeat_ngram=2))
    ids = [1, 2, *(step.token for step in steps)]
    pairs = list(itertools.pairwise(ids))
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("eot", [None, 2])
def test_a_wide_beam_search_is_brute_force(penalty: float, eot: int | None) -> None:
    model, V, n = gpt(4), 4, 4
    every: dict[tuple[int, ...], tuple[float, float]] = {}
    for length in range(1, n + 1):
        for ids in itertools.product(range(V), repeat=length):
            whole = length == n and eot not in ids
            if whole or (eot is not None and ids.index(eot) == length - 1 if eot in ids else False):
                logprob = loglikelihoods(model, [([1], ids)], T)[0][0]
                text = ids[:-1] if ids[-1] == eot else ids
                every[text] = (logprob / length**penalty, logprob)
    best = sorted(every, key=lambda ids: -every[ids][0])
    found = beam_search(
        model, [1], Beam(beams=V**n, length_penalty=penalty), Limits(n, T, () if eot is None else (eot,))
    )
    assert [tuple(f.ids) for f in found[:5]] == best[:5]
    assert found[0].score == pytest.approx(every[best[0]][0], abs=1e-4)
    assert found[0].logprob == pytest.approx(every[best[0]][1], abs=1e-4)


def test_one_beam_is_greedy_and_more_beams_are_no_worse() -> None:
    model, limits = gpt(), Limits(6, T)
    found = {beams: beam_search(model, [3, 1], Beam(beams), limits)[0] for beams in (1, 2, 8, 64)}
    assert found[1].ids == texts(model, [[3, 1]], Greedy(), 6)[0] == continue_ids(model, [3, 1], Beam(1), limits, (0,))
    assert found[64].logprob >= found[1].logprob - 1e-6


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_model_that_has_diverged_says_so(value: float) -> None:
    model = gpt()
    model.lm_head.weight.data[3, 3] = value
    with pytest.raises(UserError, match=r"^run=its model: has diverged: its logits are not finite; "):
        texts(model, [[1]], Sample(), 5)


@pytest.mark.parametrize("n", [6, 7])
def test_a_prompt_that_outgrows_the_context_can_be_refused(n: int) -> None:
    model = gpt()
    if n == 6:  # 3 + 6 - 1 tokens are read
        assert len(texts(model, [[3, 1, 4]], Greedy(), n, overflow="refuse")[0]) == 6
    else:
        with pytest.raises(UserError, match=r"^prompt=3 tokens: and 7 new ones do not fit into the context of 8; "):
            texts(model, [[3, 1, 4]], Greedy(), n, overflow="refuse")


def test_an_empty_prompt() -> None:
    with pytest.raises(UserError, match=r"^prompt=: is empty; "):
        texts(gpt(), [[1], []], Greedy(), 3)
    with pytest.raises(UserError, match=r"^prompt=: is empty; "):
        beam_search(gpt(), [], Beam(), Limits(3, T))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind["positions"]))
def test_samples_of_one_prompt_read_it_once(kind: dict[str, object]) -> None:
    """Each sample is what it is alone; the head is asked for what follows the prompts only."""
    model, prompts = gpt(**kind), [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    keys = [(7, 0, i) for i in range(4)]
    read, asked = list[int](), list[tuple[int, ...]]()
    model.blocks[0].register_forward_hook(lambda module, inputs, out: read.append(inputs[0].shape[:2].numel()))
    model.lm_head.register_forward_hook(lambda module, inputs, out: asked.append(tuple(out.shape[:-1])))
    limits = Limits(5, T)
    together = rows_of(list(generate(model, prompts, Sample(), limits, keys)), 4)
    assert read[0] == 2 * len(PROMPTS[0]) and set(read[1:]) == {4}  # two texts, padded to one length
    assert asked[0] == (2, 1) and set(asked[1:]) == {(4, 1)}
    for prompt, key, text in zip(prompts, keys, together, strict=True):
        assert rows_of(list(generate(model, [prompt], Sample(), limits, [key])), 1) == [text]
    assert len(set(map(tuple, together))) == 4


def test_a_model_that_gives_all_logits_is_read_as_before() -> None:
    class Plain(GPT):
        def forward(self, idx: torch.Tensor, documents: object = None, cache: object = None) -> torch.Tensor:  # type: ignore[override]
            return super().forward(idx, documents, cache)  # type: ignore[arg-type]

    model = gpt()
    plain = Plain(model.config).eval()
    plain.load_state_dict(model.state_dict())
    assert texts(plain, PROMPTS, Greedy(), 12) == texts(model, PROMPTS, Greedy(), 12)
