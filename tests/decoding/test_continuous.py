"""Texts that join and leave a batch at any step are those that are written alone."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from gptlab.decoding.context import Limits
from gptlab.decoding.continuous import MOST_READ, ContinuousBatch, Row, Scored
from gptlab.decoding.decoders import Chain, Decoder, Greedy, MinP, Sample, TopK, TopP
from gptlab.decoding.generate import Step, generate
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.errors import UserError
from gptlab.model.gpt import GPT
from tests.model import test_slots

T = 24
LONG = {"rope_factor": 2.0, "rope_original": 12, "rope_short": [1.0] * 4, "rope_long": [8.0] * 4}
KINDS: list[dict[str, object]] = [
    *test_slots.KINDS,
    {"positions": "rope", "rope_type": "longrope", **LONG},
    {"positions": "rope", "rope_type": "dynamic", "rope_factor": 2.0, "rope_original": 12},
]


def gpt(**kind: object) -> GPT:
    return test_slots.gpt(block_size=T, **kind)


class Heard:
    """A listener that keeps what it hears, and ends after `most` tokens."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.prompt: list[Scored] = []
        self.tokens: list[Scored] = []
        self.ended: str | Exception | None = None

    def read(self, prompt: list[Scored]) -> None:
        self.prompt = prompt

    def add(self, token: Scored) -> bool:
        self.tokens.append(token)
        return len(self.tokens) == self.most

    def end(self, reason: str) -> None:
        assert self.ended is None
        self.ended = reason

    def fail(self, error: Exception) -> None:
        assert self.ended is None
        self.ended = error

    @property
    def ids(self) -> list[int]:
        return [each.token for each in self.tokens]


def row(prompt: Sequence[int], n: int = 5, decoder: Decoder | None = None, most: int = 1000, **more: object) -> Row:
    key = (7, len(prompt), sum(prompt))
    return Row(prompt, key, decoder or Greedy(), Heard(most), n, **more)  # type: ignore[arg-type]


def heard(of: Row) -> Heard:
    assert isinstance(of.listener, Heard)
    return of.listener


def finish(batch: ContinuousBatch, rows: Sequence[Row] = ()) -> None:
    batch.add(rows)
    for _ in range(1000):
        if not batch.step():
            return
    raise AssertionError("the batch does not end")


def steps_alone(model: nn.Module, of: Row, n: int) -> list[Step]:
    limits = Limits(min(n, T - len(of.prompt)), T, of.ends)
    return list(generate(model, [of.prompt], of.decoder, limits, [of.key], of.processors))


def alone(model: nn.Module, of: Row, n: int) -> list[int]:
    return [step.token for step in steps_alone(model, of, n)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_company_changes_no_text(kind: dict[str, object]) -> None:
    """Thirty texts that come at random steps, five at a time: equal to `generate`, each by itself."""
    model, drawn = gpt(**kind), random.Random(3)
    decoders: list[Decoder] = [Greedy(), Sample(), TopK(k=9), TopP(temperature=0.7, p=0.8)]
    processors = [LogitsProcessors(), LogitsProcessors(repetition=1.3, frequency=0.5)]
    batch, rows, counts = ContinuousBatch(model, T, 5), list[Row](), list[int]()
    for i in range(30):
        prompt = [drawn.randrange(50) for _ in range(drawn.randrange(1, T))]
        counts.append(drawn.randrange(1, 20))
        rows.append(row(prompt, counts[-1], decoders[i % 4], processors=processors[i % 2], ends=[7]))
    coming = list(rows)
    while coming or batch.running or batch.waiting:
        if coming and drawn.random() < 0.6:
            batch.add([coming.pop(0) for _ in range(min(len(coming), drawn.randrange(1, 4)))])
        batch.step()
        assert len(batch.running) <= 5
    reasons = set()
    for each, n in zip(rows, counts, strict=True):
        steps = steps_alone(model, each, n)
        assert heard(each).ids == [step.token for step in steps]
        assert [token.logprob for token in heard(each).tokens] == pytest.approx(
            [step.logprob for step in steps], abs=1e-4
        )
        ended = "length" if len(heard(each).ids) == min(n, T - len(each.prompt)) else "stop"
        assert heard(each).ended == ended
        reasons.add(ended)
    assert reasons == {"length", "stop"}


def test_a_text_ends_where_the_context_is_full() -> None:
    model = gpt()
    full, almost, whole = row([1] * (T - 3), 99), row([2] * (T - 1), 99), row([3] * T, 99)
    long = row([4] * (T + 1))
    finish(ContinuousBatch(model, T, 8), [full, almost, whole, long])
    assert [len(heard(each).ids) for each in (full, almost, whole)] == [3, 1, 0]
    assert all(heard(each).ended == "length" for each in (full, almost, whole))
    assert isinstance(heard(long).ended, UserError) and "25 tokens: does not fit" in str(heard(long).ended)
    with pytest.raises(UserError, match="is empty"):
        row([])


def test_first_come_first_served() -> None:
    """Two places: each text begins when the first place is free, in the order of asking."""
    batch = ContinuousBatch(gpt(), T, 2)
    rows = [row([n + 1, 2], n=3) for n in range(5)]
    batch.add(rows)
    begun = []
    while True:
        more = batch.step()
        begun.append([len(heard(each).ids) for each in rows])
        if not more:
            break
    assert begun == [
        *([n, n, 0, 0, 0] for n in (1, 2, 3)),
        *([3, 3, n, n, 0] for n in (1, 2, 3)),
        *([3, 3, 3, 3, n] for n in (1, 2, 3)),
    ]


def test_one_that_leaves_gives_its_place_at_once() -> None:
    model = gpt()
    batch = ContinuousBatch(model, T, 2)
    rows = [row([1, 2], 15), row([3], 15), row([4, 5], 15), row([6], 15)]
    batch.add(rows)
    batch.step()
    rows[0].cancelled = rows[3].cancelled = True
    finish(batch)
    assert heard(rows[0]).ended is None and len(heard(rows[0]).ids) == 1 and not heard(rows[3]).ids
    for each in rows[1:3]:
        assert heard(each).ids == alone(model, each, 15)


def test_a_long_prompt_does_not_keep_others_waiting_for_all_that_come() -> None:
    """At most MOST_READ tokens are read between two steps, but always one prompt."""
    model = test_slots.gpt(block_size=MOST_READ, n_layer=1, n_embd=4)
    batch = ContinuousBatch(model, MOST_READ, 8)
    batch.add([row([1] * (MOST_READ // 2 - 9), 5), row([1, 2], 5), row([3], 5), row([4] * (MOST_READ - 9), 5)])
    sizes = []
    while batch.step():
        sizes.append(len(batch.running))
    assert sizes[:3] == [2, 3, 4]


def test_log_probabilities_are_those_of_the_whole_text() -> None:
    model = gpt()
    rows = [row([5, 3, 8, 1], 6, Sample(), best=3, scores_prompt=True), row([9, 2], 9, TopK(k=5), best=1), row([4], 3)]
    finish(ContinuousBatch(model, T, 4), rows)
    for each in rows:
        found = [*heard(each).prompt, *heard(each).tokens]
        text = [*each.prompt, *heard(each).ids]
        expected = model(torch.tensor([text]))[0].double().log_softmax(-1)
        for place, scored in enumerate(found, len(text) - len(found)):
            assert scored.token == text[place]
            assert scored.logprob == pytest.approx(expected[place - 1, text[place]].item(), abs=1e-5)
            top = expected[place - 1].topk(each.best) if each.best else None
            assert [token for token, _ in scored.best] == (top.indices.tolist() if top else [])
            for (_, logprob), value in zip(scored.best, top.values.tolist() if top else [], strict=True):
                assert logprob == pytest.approx(value, abs=1e-5)
    assert len(heard(rows[0]).prompt) == 3 and not heard(rows[1]).prompt


def test_equal_prompts_are_read_once() -> None:
    model = gpt()
    read = list[tuple[int, ...]]()
    handle = model.blocks[0].register_forward_pre_hook(lambda module, args: read.append(tuple(args[0].shape[:2])))
    rows = [Row([1, 2, 3], (7, 0, sample), Sample(), Heard(), 4) for sample in range(3)]
    finish(ContinuousBatch(model, T, 8), rows)
    handle.remove()
    assert read == [(1, 3), (3, 1), (3, 1), (3, 1)]
    assert [heard(each).ids for each in rows] == [alone(model, each, 4) for each in rows]
    assert len({tuple(heard(each).ids) for each in rows}) == 3


def test_a_stop_by_the_listener() -> None:
    short, long = row([1, 2], 9, most=4), row([3], 9)
    finish(ContinuousBatch(gpt(), T, 2), [short, long])
    assert (len(heard(short).ids), heard(short).ended) == (4, "stop")
    assert (len(heard(long).ids), heard(long).ended) == (9, "length")


class Own(nn.Module):
    """A model without a cache, as another package may have it: logits by the sum of all ids before."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 50)

    def forward(self, idx: Tensor) -> Tensor:
        found: Tensor = self.table(idx.cumsum(1) % 50)
        return found


def test_a_model_without_a_cache() -> None:
    torch.manual_seed(1)
    model, batch = Own(), None
    batch = ContinuousBatch(model, T, 3, n_vocab=40)
    rows = [row([n, *range(n)], 6, Sample()) for n in (1, 4, 2, 7, 5)]
    finish(batch, rows)
    for each in rows:
        limits = Limits(6, T, n_vocab=40)
        assert heard(each).ids == [s.token for s in generate(model, [each.prompt], Sample(), limits, [each.key])]
        assert max(heard(each).ids) < 40


def test_a_padded_vocabulary_is_never_drawn() -> None:
    rows = [row([n], 9, Sample(temperature=5.0)) for n in range(8)]
    finish(ContinuousBatch(gpt(), T, 8, n_vocab=10), rows)
    assert max(max(heard(each).ids) for each in rows) < 10


def test_a_fault_ends_the_texts_that_it_concerns() -> None:
    """A listener's fault its own; logits that are not finite that row; a failed reading all that were read."""
    model = gpt()
    with torch.no_grad():
        model.wte.weight[13] = float("nan")  # tied: the logit of 13 is NaN for everybody
    bad = row([1, 2], 5)
    finish(ContinuousBatch(model, T, 4), [bad])
    assert "its logits are not finite" in str(heard(bad).ended)

    model = gpt(tied=False)
    with torch.no_grad():
        model.wte.weight[13] = float("nan")  # whoever reads it
    bad, good, deaf = row([13, 2], 5), row([1, 2, 3], 5), row([4], 5)
    heard(deaf).add = lambda token: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    batch = ContinuousBatch(model, T, 4)
    finish(batch, [bad, good, deaf])
    assert "its logits are not finite" in str(heard(bad).ended) and isinstance(heard(deaf).ended, ZeroDivisionError)
    assert heard(good).ids == alone(model, good, 5)

    def fails(module: nn.Module, args: object) -> None:
        raise MemoryError("too little")

    rows = [row([1], 5), row([2], 5), row([3], 5)]
    batch = ContinuousBatch(model, T, 2)
    batch.add(rows)
    batch.step()
    handle = model.register_forward_pre_hook(fails)
    batch.step()
    handle.remove()
    assert [type(heard(each).ended) for each in rows] == [MemoryError, MemoryError, type(None)]
    finish(batch)
    assert heard(rows[2]).ids == alone(model, rows[2], 5)


def test_decoders_one_after_another() -> None:
    """top_k, then top_p of what is left, then min_p: by hand."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.06, 0.04]]).log()
    found = Chain([TopK(k=3), TopP(p=0.7)])(logits)  # 4/9, 3/9, 2/9: the first two have 7/9
    assert torch.allclose(found, torch.tensor([[4 / 7, 3 / 7, 0, 0, 0]]))
    found = Chain([TopK(k=4), MinP(min_p=0.4)])(logits)
    assert torch.allclose(found, torch.tensor([[4 / 9, 3 / 9, 2 / 9, 0, 0]]))
    assert torch.allclose(Chain([TopP(p=0.5), TopK(k=9)])(logits), torch.tensor([[4 / 7, 3 / 7, 0, 0, 0]]))
