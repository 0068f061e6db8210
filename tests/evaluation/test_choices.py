"""Items of tasks: log-likelihoods and accuracies by hand, tokens at the boundary, summaries and ROUGE."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.decoding.loglikelihood import loglikelihoods
from gptlab.errors import UserError
from gptlab.evaluation.choices import after, encode_answer, encode_pair, score_choices
from gptlab.evaluation.eval_task import ChoiceItem, SummaryItem
from gptlab.evaluation.statistics import mcnemar
from gptlab.evaluation.summaries import rouge, score_summaries
from gptlab.evaluation.task_scores import Asking
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char
from gptlab.tokenizers.chat_templates import chat_template
from tests.model.test_options import BY_LENGTH

T = 32
Pair = tuple[list[int], list[int]]


def gpt(**more: Any) -> GPT:
    torch.manual_seed(1)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=T, vocab_size=257, **more)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def some_pairs(n: int = 20) -> list[Pair]:
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 257, 1 + 3 * i % 50).tolist(), rng.integers(0, 257, 1 + i % 7).tolist()) for i in range(n)]


def by_hand(logits_of: Any, pair: Pair, block_size: int) -> float:
    """Every token of the continuation by itself, in float64; the oldest ids are dropped where they do not fit."""
    ids, total = [*pair[0], *pair[1]][-block_size - 1 :], 0.0
    for at in range(len(ids) - len(pair[1]), len(ids)):
        logits = logits_of(ids[:at])
        total += logits[ids[at]] - (np.log(np.exp(logits - logits.max()).sum()) + logits.max())
    return total


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 6, 100])
def test_log_likelihoods_by_hand(batch_size: int) -> None:
    """In any batch, in any order, padded or not."""
    model, pairs = gpt(), some_pairs()
    assert any(len(context) + len(continuation) > T + 1 for context, continuation in pairs)
    found = loglikelihoods(model, pairs, T, batch_size)
    for pair, (logprob, greedy) in zip(pairs, found, strict=True):
        expected = by_hand(lambda ids: model(torch.tensor([ids]))[0, -1].double().numpy(), pair, T)
        assert logprob == pytest.approx(expected, abs=1e-5)
        assert not greedy
    best = [int(model(torch.tensor([pairs[0][0]]))[0, -1].argmax())]
    assert loglikelihoods(model, [(pairs[0][0], best), pairs[1]], T)[0][1]


@torch.no_grad()
def test_rows_that_are_read_otherwise_are_not_padded_to_them() -> None:
    """LongRoPE reads texts beyond the original length with other angles: also in a batch with short ones."""
    model = gpt(positions="rope", **BY_LENGTH["longrope"])
    pairs = [([1, 2, 3], [4, 5]), (list(range(20)), [6, 7])]
    together, alone = loglikelihoods(model, pairs, T), [loglikelihoods(model, [pair], T)[0] for pair in pairs]
    assert [each[0] for each in together] == pytest.approx([each[0] for each in alone], abs=1e-6)


def test_a_context_and_its_continuation_are_encoded_as_one_text() -> None:
    """As lm-eval does: white space goes to what follows; where a token would span both, they are encoded apart."""
    bpe = BPE(vocab_size=400).build(["the cat sat on the mat, the cat ran home"] * 50)
    assert after("the cat ", "sat") == ("the cat", " sat") and after("the cat\n\n", "sat") == ("the cat", "\n\nsat")
    context, continuation = encode_pair(bpe, "the cat", " sat")
    assert (context, continuation) == (bpe.encode("the cat"), bpe.encode(" sat"))
    assert context + continuation == bpe.encode("the cat sat")
    spanned = bpe.encode("the c") + bpe.encode("at")
    assert spanned != bpe.encode("the cat")
    context, continuation = encode_pair(bpe, "the c", "at")
    assert context == bpe.encode("the c") and bpe.decode(continuation) == "at"
    assert [bpe.decode(part) for part in encode_pair(bpe, "the", " cat")] == ["the", " cat"]


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_in_a_chat_the_answer_stands_where_the_assistant_speaks(name: str) -> None:
    """As the template itself encodes the conversation, but for the end of the turn, which is no part of a choice."""
    template = chat_template(name, Byte().build([]))
    said = [{"role": "user", "content": "2+2="}, {"role": "assistant", "content": " 4"}]
    ids, counts = template.encode(said)
    before, answer = encode_answer(template, "2+2=", " 4")
    assert [*before, *answer, template.ends[0]] == ids[: len(before) + 3]
    assert [i for i, counted in zip(ids, counts, strict=True) if counted] == [*answer, template.ends[0]]
    model, items = gpt(), [ChoiceItem("2+2=", (" 4", " 5"), 0)]
    asking = Asking("own", "run", T, 4, 1, template)
    cost = score_choices(model, template.tokenizer, items, asking).values["bits_per_byte"][0] * math.log(2)
    assert cost == pytest.approx(-loglikelihoods(model, [(before, answer)], T)[0][0])


@torch.no_grad()
@pytest.mark.parametrize("name", ["chatml", None])
def test_a_summary_is_written_greedily_after_the_end_of_the_prompt(name: str | None) -> None:
    """One token at a time by hand; of a prompt that is too long the last ids are read."""
    tokenizer, model, most = Byte().build([]), gpt(), 10
    template = None if name is None else chat_template(name, tokenizer)
    items = [SummaryItem("the cat sat on a mat " * (1 + i % 2), "a mat") for i in range(5)]
    found = score_summaries(model, tokenizer, items, Asking("own", "run", T, 2, most, template))
    for item, text in zip(items, found.texts, strict=True):
        ids = template.prompt([{"role": "user", "content": item.prompt}]) if template else tokenizer.encode(item.prompt)
        prompt = ids[-(T - most) :]
        new: list[int] = []
        while len(new) < most:
            token = int(model(torch.tensor([[*prompt, *new]]))[0, -1].argmax())
            if token == tokenizer.eot:
                break
            new.append(token)
        written = tokenizer.decode([*prompt, *new])[len(tokenizer.decode(prompt)) :]
        assert text == written.strip().partition("\n\n")[0]
    assert found.notes["prompts_cut"] == (2 if template is None else 5)


class Scripted(torch.nn.Module):
    """A model whose logits at every place are those given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*idx.shape, -1)


def test_accuracies_by_hand_and_a_tie_is_wrong() -> None:
    """Of a model with one distribution for all places, by the costs of the bytes."""
    logits = torch.zeros(257, dtype=torch.float64)
    for letter, value in {"a": 5.0, "b": 4.0, "é": 0.0}.items():
        logits[list(letter.encode())] = value
    items = [
        ChoiceItem("x", ("a", "b"), 0),  # right
        ChoiceItem("x", ("bb", "a"), 0),  # the longer one costs more; a letter costs more too
        ChoiceItem("x", ("aa", "b"), 0),  # costs more, but less a letter
        ChoiceItem("x", ("ab", "ba"), 0),  # a tie
        ChoiceItem("x", ("éc", "cc"), 0),  # three bytes of equal cost: worse; worse a letter; a tie a byte
    ]
    asking = Asking("own", "run", T, 4, 1)
    found = score_choices(Scripted(logits), Byte().build([]), items, asking)
    total = math.log(float(logits.exp().sum()))
    cost = {"a": total - 5, "b": total - 4, "c": total}
    assert found.values["acc"].tolist() == [1, 0, 0, 0, 0]
    assert found.values["acc_norm"].tolist() == [1, 0, 1, 0, 0]
    assert found.values["acc_bytes"].tolist() == [1, 0, 1, 0, 0]
    nats = [cost["a"], 2 * cost["b"], 2 * cost["a"], cost["a"] + cost["b"], 3 * cost["c"]]
    scores = found.scores()
    assert scores["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / (1 + 2 + 2 + 2 + 3))
    assert (scores["acc"], scores["acc_norm"], found.notes["chance"]) == (0.2, 0.4, 0.5)
    assert scores["acc_stderr"] == pytest.approx(np.std([1, 0, 0, 0, 0], ddof=1) / math.sqrt(5))
    assert "bits_per_byte_stderr" not in scores


def test_a_byte_is_not_a_character() -> None:
    """Where all bytes cost the same, two characters of four bytes cost more a character than three of three."""
    asking = Asking("own", "run", T, 4, 1)
    item = ChoiceItem("x", ("abc", "éé"), 0)
    found = score_choices(Scripted(torch.zeros(257)), Byte().build([]), [item], asking).values
    assert (found["acc"], found["acc_norm"], found["acc_bytes"]) == ([1.0], [1.0], [0.0])


def test_bits_per_byte_are_of_answers_that_are_spelled() -> None:
    tokenizer = Char().build(["abc x"])
    asking = Asking("own", "run", T, 4, 1)
    model = Scripted(torch.zeros(tokenizer.n_vocab))
    spelled, lost = (ChoiceItem("x", ("a", text), 1) for text in ("b", "?"))
    assert score_choices(model, tokenizer, [spelled], asking).scores()["bits_per_byte"] == pytest.approx(
        math.log2(tokenizer.n_vocab)
    )
    assert set(score_choices(model, tokenizer, [spelled, lost], asking).values) == {"acc", "acc_norm", "acc_bytes"}


def test_rouge_by_hand() -> None:
    """Words in small letters without signs; F-measures of common words, pairs of words, and the longest subsequence."""
    found = rouge("The cat sat; on THE mat", "the cat lay on a mat!")
    assert found["rouge1"] == pytest.approx(2 * (4 / 6) * (4 / 6) / (8 / 6))
    assert found["rouge2"] == pytest.approx(1 / 5)
    assert found["rougeL"] == pytest.approx(4 / 6)
    assert rouge("", "a") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_mcnemar_by_hand() -> None:
    """Nine items are right under b alone, two under a alone: twice the binomial tail of 9 or more of 11."""
    a, b = np.array([1.0] * 5 + [1] * 2 + [0] * 9), np.array([1.0] * 5 + [0] * 2 + [1] * 9)
    tail = sum(math.comb(11, k) for k in range(9, 12)) / 2**11
    assert mcnemar(a, b) == {"only_a": 2, "only_b": 9, "p": pytest.approx(2 * tail)}
    assert mcnemar(a, a) == {"only_a": 0, "only_b": 0, "p": 1.0}


def test_what_diverged_has_no_scores() -> None:
    with pytest.raises(UserError, match="run=run: its model gives no finite scores"):
        broken = Scripted(torch.full((257,), float("nan")))
        score_choices(broken, Byte().build([]), [ChoiceItem("x", ("a", "b"), 0)], Asking("own", "run", T, 4, 1))
