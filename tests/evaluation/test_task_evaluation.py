"""Tasks of word prediction: log-likelihoods of transformers, accuracies by hand, ROUGE, and paired comparison."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.config import compose
from gptlab.decoding.loglikelihood import loglikelihoods
from gptlab.errors import UserError
from gptlab.evaluation.choices import after, encode_pair, score_choices
from gptlab.evaluation.eval_task import ChoiceItem
from gptlab.evaluation.statistics import mcnemar
from gptlab.evaluation.summaries import rouge
from gptlab.evaluation.task_scores import Asking
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char
from gptlab.training.run import train
from tests.conftest import WORDS, tiny_overrides, write_texts
from tests.model.test_options import BY_LENGTH

T = 32
Pair = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `a` and `b`, and tasks of both kinds."""
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GPTLAB_CACHE", str(folder / "cache"))
        texts = write_texts(folder / "texts")
        bpe = ["tokenizer=bpe", "tokenizer.vocab_size=300", "logger=csv"]
        train(compose("train", [*tiny_overrides(texts), *bpe, "run_dir=a"]))
        train(compose("train", [*tiny_overrides(texts), *bpe, "run_dir=b", "optimizer.lr=0.02", "budget.steps=20"]))
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    items = [
        {
            "context": " ".join(WORDS[(i * 5 + j * j) % len(WORDS)] for j in range(1 + i % 40)),
            "choices": [f" {WORDS[(i + k * k) % len(WORDS)]}" + " on" * (k % 2) for k in range(2 + i % 3)],
            "answer": i % 2,
        }
        for i in range(60)
    ]
    Path("own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    pairs = [{"prompt": item["context"], "reference": "the cat sat on a mat"} for item in items[:9]]
    Path("sums.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))


def ask(verb: Any, *overrides: str) -> dict[str, Any]:
    return verb(compose(verb.__name__, list(overrides)))


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


@torch.no_grad()
def test_the_log_likelihoods_of_transformers(tmp_path: Path) -> None:
    """On the exported model, one text at a time without padding."""
    ask(export, "run=b", f"out={tmp_path}/hf")
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    their = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model, tokenizer = RunDir.find("b").load()
    items = [json.loads(line) for line in Path("own.jsonl").read_text().splitlines()]
    texts = [after(item["context"], choice) for item in items for choice in item["choices"]]
    pairs = [encode_pair(tokenizer, *text) for text in texts]
    for (logprob, _), (context, continuation) in zip(loglikelihoods(model, pairs, T), texts, strict=True):
        n, ids = len(their(context).input_ids), their(context + continuation).input_ids
        row = torch.tensor([ids[-T - 1 :]])
        logits = hf(row[:, :-1]).logits[0].double().log_softmax(-1)
        new = len(ids) - n
        expected = sum(float(logits[-new + k, ids[n + k]]) for k in range(new))
        assert logprob == pytest.approx(expected, abs=1e-5)


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


def test_a_run_is_scored_and_the_figures_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    result = ask(evaluate, "run=b", "tasks=[own.jsonl,sums.jsonl]", "max_new_tokens=8")["tasks"]
    said = " ".join(capsys.readouterr().out.split())
    assert "acc_norm" in said and "ROUGE-L" in said and "beginnings were dropped" in said
    kept = json.loads(Path("b/tasks/own.json").read_text())
    assert {key: value for key, value in kept.items() if key != "per_item"} | {"file": "b/tasks/own.json"} == result[
        "own"
    ]
    assert np.mean(kept["per_item"]["acc"]) == pytest.approx(result["own"]["acc"])
    assert result["own"]["items"] == 60 and result["own"]["choices_cut"] > 0
    assert result["own"]["chance"] == pytest.approx(np.mean([1 / (2 + i % 3) for i in range(60)]))
    texts = json.loads(Path("b/tasks/sums.json").read_text())["per_item"]
    assert texts["rougeL"] == [rouge(text, "the cat sat on a mat")["rougeL"] for text in texts["texts"]]
    ask(
        evaluate,
        "run=b/checkpoints/step-00003.ckpt" if Path("b/checkpoints/step-00003.ckpt").exists() else "run=b",
        "tasks=[own.jsonl]",
    )


def test_rouge_by_hand() -> None:
    """Words in small letters without signs; F-measures of common words, pairs of words, and the longest subsequence."""
    found = rouge("The cat sat; on THE mat", "the cat lay on a mat!")
    assert found["rouge1"] == pytest.approx(2 * (4 / 6) * (4 / 6) / (8 / 6))
    assert found["rouge2"] == pytest.approx(1 / 5)
    assert found["rougeL"] == pytest.approx(4 / 6)
    assert rouge("", "a") == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_two_runs_are_compared_item_by_item(capsys: pytest.CaptureFixture[str]) -> None:
    result = ask(compare, "a=a", "b=b", "tasks=[own.jsonl,sums.jsonl]", "max_new_tokens=8", "resamples=2000")
    said = capsys.readouterr().out
    own, sums = result["tasks"]["own"], result["tasks"]["sums"]
    scores = {name: ask(evaluate, f"run={name}", "tasks=[own.jsonl]")["tasks"]["own"] for name in "ab"}
    right = {name: np.array(json.loads(Path(f"{name}/tasks/own.json").read_text())["per_item"]["acc"]) for name in "ab"}
    assert own["difference"]["value"] == pytest.approx(scores["b"]["acc"] - scores["a"]["acc"])
    assert (own["metric"], sums["metric"], own["units"]["number"]) == ("acc", "rougeL", 60)
    difference = right["b"] - right["a"]
    rows = np.random.default_rng(0).integers(0, 60, (4000, 60))
    low, high = np.quantile(difference[rows].mean(1), [0.025, 0.975])
    assert [own["difference"]["low"], own["difference"]["high"]] == pytest.approx([low, high], abs=0.03)
    assert own["mcnemar"] == mcnemar(right["a"], right["b"]) and sums["mcnemar"] is None
    assert "over 60 items" in said and "McNemar's exact test" in said
    stored = json.loads(Path("a/compare/b-own-sums.json").read_text())["tasks"]
    assert stored["own"]["per_unit"] == {f"acc_{name}": each.tolist() for name, each in right.items()}
    cost = ask(compare, "a=a", "b=b", "tasks=[own.jsonl]", "metric=bits_per_byte", "resamples=200")["tasks"]["own"]
    assert cost["difference"]["value"] == pytest.approx(scores["b"]["bits_per_byte"] - scores["a"]["bits_per_byte"])
    assert cost["better"] == "lower" and cost["difference"]["low"] > 0
    assert "a is better over 60 items" in capsys.readouterr().out


def test_seeds_are_averaged() -> None:
    result = ask(compare, "a=a", "b=[a,b]", "tasks=[own.jsonl]", "resamples=100")["tasks"]["own"]
    scores = [run["acc"] for run in result["runs"]]
    assert result["difference"]["value"] == pytest.approx((scores[1] + scores[2]) / 2 - scores[0])
    assert result["mcnemar"] is None


def test_mcnemar_by_hand() -> None:
    """Nine items are right under b alone, two under a alone: twice the binomial tail of 9 or more of 11."""
    a, b = np.array([1.0] * 5 + [1] * 2 + [0] * 9), np.array([1.0] * 5 + [0] * 2 + [1] * 9)
    tail = sum(math.comb(11, k) for k in range(9, 12)) / 2**11
    assert mcnemar(a, b) == {"only_a": 2, "only_b": 9, "p": pytest.approx(2 * tail)}
    assert mcnemar(a, a) == {"only_a": 0, "only_b": 0, "p": 1.0}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tasks=[own.jsonl]", "block_size=2"], "tasks=own: a choice has "),
        (
            ["tasks=[sums.jsonl]", "max_new_tokens=32"],
            "max_new_tokens=32: leaves no room for a prompt in the context of 32",
        ),
        (["tasks=[own.jsonl]", "block_size=64"], "block_size=64: is more than the 32 positions"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ask(evaluate, "run=a", *overrides)


def test_a_metric_that_a_task_does_not_have() -> None:
    with pytest.raises(UserError, match="metric=rougeL: the task own has no such metric; choose one of acc, acc_norm"):
        ask(compare, "a=a", "b=b", "tasks=[own.jsonl]", "metric=rougeL")


def test_what_diverged_has_no_scores() -> None:
    with pytest.raises(UserError, match="run=run: its model gives no finite scores"):
        broken = Scripted(torch.full((257,), float("nan")))
        score_choices(broken, Byte().build([]), [ChoiceItem("x", ("a", "b"), 0)], Asking("own", "run", T, 4, 1))
