"""Perplexity in sliding windows: by its definition, and as lm-eval's rolling windows have it."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.data.batches.sliding import SlidingWindows
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from gptlab.evaluation.perplexity import measure
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.data.batches.test_sliding import stream
from tests.evaluation.test_perplexity import gpt
from tests.tasks.test_sft import LEARN, talks, write

T = 32


def rolled(ids: list[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield what lm-eval reads of a text after its first id, and what it predicts: the last window is full, too."""
    for at in range(1, len(ids), size):
        end = min(at + size, len(ids))
        yield ids[max(0, end - 1 - size) : end - 1], ids[at:end]


@torch.no_grad()
def cost(model: Any, read: list[int], predicted: list[int]) -> float:
    logprobs = model(torch.tensor([read]))[0].double().log_softmax(-1)[-len(predicted) :]
    return -sum(float(row[token]) for row, token in zip(logprobs, predicted, strict=True))


@torch.no_grad()
def test_the_definition_of_perplexity(tmp_path: Path) -> None:
    """(prod 1/P(w_i|w_<i))^(1/n), with all that stands before each token, as Jurafsky and Martin define it."""
    model = gpt().double()
    ids, product = [19, 3, 1, 4, 1, 5, 9, 2], 1.0
    tokens = stream(tmp_path / "x.bin", ids)
    for i in range(1, len(ids)):
        product /= float(model(torch.tensor([ids[:i]]))[0, -1].softmax(-1)[ids[i]])
    for stride in (1, 8):
        scores = CausalLM().scores(measure(model, CausalLM(), SlidingWindows(tokens, 8, stride, 19), 3), None)
        assert scores["perplexity"] == pytest.approx(product ** (1 / 7), rel=1e-6)


@pytest.mark.slow
def test_the_rolling_windows_of_lm_eval(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    """Where a whole window is the stride, each document by itself; and more context costs other nats than less."""
    train(tiny("budget.steps=30", "optimizer.lr=0.01"))
    run = RunDir.find("run")
    model, tokenizer = run.load()
    tokens = held_out_stream(run.path / "held_out")[0]
    bounds = [*tokens.document_starts(tokenizer.eot).tolist(), len(tokens) - 1]
    documents = [tokens[a : b + 1].tolist() for a, b in itertools.pairwise(bounds)]
    expected = sum(cost(model, *window) for each in documents for window in rolled(each, T)) / (len(tokens) - 1)
    found = {n: evaluate(compose("evaluate", ["run=run", "protocol=sliding", f"stride={n}"])) for n in (T, 1)}
    assert len(documents) > 1 and found[T]["loss"] == pytest.approx(expected, abs=1e-6)
    assert found[T]["perplexity"] == pytest.approx(math.exp(expected), rel=1e-6)
    plain, half = (evaluate(compose("evaluate", ["run=run", *more])) for more in ([], ["protocol=sliding"]))
    assert plain["tokens"] == found[1]["tokens"] and plain["bytes"] == found[1]["bytes"]
    assert len({each["loss"] for each in (plain, half, *found.values())}) == 4
    assert half["protocol"] == {
        **{"block_size": T, "stride": T // 2, "windows": "sliding over each document"},
        "documents_read_alone": True,
    }


def test_windows_of_lm_eval_itself() -> None:
    utils = pytest.importorskip("lm_eval.utils")
    for n in (1, 5, 31, 32, 33, 64, 70, 97):
        ids = list(range(100, 100 + n + 1))
        theirs = [*utils.get_rolling_token_windows(ids[1:], ids[0], T, 1)]
        assert [*rolled(ids, T)] == theirs


def test_an_ensemble_slides_too(tiny: Callable[..., TrainConfig]) -> None:
    train(tiny("budget.steps=2"))
    train(tiny("budget.steps=2", "seed=7", "run_dir=other"))
    asked = ["protocol=sliding", "stride=8"]
    together = evaluate(compose("evaluate", ["run=[run,other]", *asked]))
    alone = [evaluate(compose("evaluate", [f"run={name}", *asked])) for name in ("run", "other")]
    assert [each["loss"] for each in together["members"]] == pytest.approx([each["loss"] for each in alone])
    assert together["loss"] < np.mean([each["loss"] for each in alone]) and together["protocol"]["stride"] == 8
    with pytest.raises(UserError, match=r"^stride=33: is more than a window of block_size=32; give at most 32$"):
        evaluate(compose("evaluate", ["run=run", "protocol=sliding", "stride=33"]))


def test_conversations_do_not_slide() -> None:
    write(Path("talk.jsonl"), talks())
    train(compose("train", [*LEARN, "budget.steps=1", "run_dir=run"]))
    with pytest.raises(UserError, match=r"^protocol=sliding: goes with text, and these are examples; leave it out$"):
        evaluate(compose("evaluate", ["run=run", "protocol=sliding"]))
