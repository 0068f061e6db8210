"""Tasks of word prediction on trained runs: transformers' log-likelihoods, what is kept, and paired comparison."""

import json
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
from gptlab.evaluation.choices import after, encode_pair
from gptlab.evaluation.statistics import mcnemar
from gptlab.evaluation.summaries import rouge
from gptlab.runs.run_dir import RunDir
from gptlab.training.run import train
from tests.conftest import WORDS, tiny_overrides, working_in, write_texts

T = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `a` and `b`, and tasks of both kinds."""
    folder = tmp_path_factory.mktemp("tasks")
    with working_in(folder):
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tasks=[own.jsonl]", "block_size=2"], "tasks=own: a choice has "),
        (
            ["tasks=[sums.jsonl]", "max_new_tokens=32"],
            "max_new_tokens=32: leaves no room for a prompt in the context of 32",
        ),
        (["tasks=[own.jsonl]", "chat=true"], "run=a: neither its task nor its tokenizer has a chat template"),
        (["tasks=[own.jsonl]", "block_size=64"], "block_size=64: is more than the 32 positions"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ask(evaluate, "run=a", *overrides)


def test_a_metric_that_a_task_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before a model is asked."""
    monkeypatch.setattr("gptlab.evaluation.task_comparison.score_tasks", None)
    with pytest.raises(UserError, match="metric=rougeL: the task own has no such metric; choose one of acc, acc_norm"):
        ask(compare, "a=a", "b=b", "tasks=[own.jsonl]", "metric=rougeL")
