"""A task that learns from records: its data, what a run directory keeps of them, and what other verbs make of it."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import gptlab
from gptlab.commands.audit import audit
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.data.batches.examples import ExampleDataModule, divide, held_out_records
from gptlab.data.tokens.prepare import prepare
from gptlab.errors import UserError
from gptlab.runs.reader import read_run
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.classification import Classification
from gptlab.tokenizers.byte import Byte
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import tiny_model
from tests.training.test_resume import require_equal_after_a_kill

KINDS = {"fish": "swims and has fins", "bird": "flies on two wings", "cat": "purrs"}
LEARN = [
    "task=classification",
    "data=labelled",
    "data.files=[train.jsonl]",
    "tokenizer=byte",
    "data.batch_size=4",
    *tiny_model(),
]
LEARN += ["data.val_fraction=0.3", "optimizer.lr=0.01", "model.block_size=30"]


def records(n: int = 40) -> list[dict[str, str]]:
    kinds = list(KINDS)
    return [{"text": f"{KINDS[kinds[i % 3]]} {'so ' * (i % 5)}{i}", "label": kinds[i % 3]} for i in range(n)]


def write(path: Path, found: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in found))


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., TrainConfig]:
    write(tmp_path / "train.jsonl", records())
    return lambda *more: compose("train", [*LEARN, f"run_dir={tmp_path}/run", *more])


def by_hand(run: Path, held_out: list[dict[str, str]]) -> tuple[float, float]:
    """Mean loss and accuracy of a run, one record at a time, in float64."""
    gpt, tokenizer = gptlab.load(run)
    names = sorted(KINDS)
    losses, right = [], []
    for each in held_out:
        x = torch.tensor([tokenizer.encode(each["text"])[:30]])
        logits = gpt.double()(x, torch.tensor([x.shape[1] - 1]))[0].detach().numpy()
        losses.append(np.log(np.exp(logits).sum()) - logits[names.index(each["label"])])
        right.append(logits.argmax() == names.index(each["label"]))
    return float(np.mean(losses)), float(np.mean(right))


@pytest.mark.slow
def test_it_learns_from_records_and_keeps_what_it_holds_out(
    ask: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    summary = train(ask("budget.steps=30", "data.micro_batch_size=auto"))
    said = capsys.readouterr().out
    assert summary is not None and "4 of 4 sequences a forward pass fit" in said
    held_out, manifest = held_out_records(run / "held_out")
    training = [each for each in records() if each not in held_out]
    assert (len(held_out), len(training)) == (12, 28)
    assert f"28 examples to train on; 12 held out; sha256 {manifest['sha256'][:12]}" in said
    lengths = [min(30, len(each["text"])) for each in training]
    cut = sum(len(each["text"]) > 30 for each in training)
    assert f"28 examples an epoch, of {np.mean(lengths):.1f} tokens on average, at most 30; {cut} cut" in said

    # tokens are what was read, without padding; the loss is divided by the examples
    config = ask().data
    task = Classification().fitted(training)
    encoded = [task.examples(part, Byte().build([]), 30, True) for part in (training, held_out)]
    module = ExampleDataModule(*encoded, config, 30, 1337, "")
    read = sum(lengths[i] for step in range(1, 31) for i in module.examples_of(step))
    assert summary["tokens"] == read and read not in (30 * 4, 30 * 4 * 30)
    assert module.tokens_per_step == pytest.approx(4 * np.mean(lengths))

    assert read_run(run, "run").tokens_per_step == round(read / 30)  # by which a report counts

    # a run directory needs nothing else
    assert RunDir(run).config()["task"]["labels"] == sorted(KINDS)
    for gone in ("train.jsonl", "cache"):
        shutil.rmtree(tmp_path / gone) if gone == "cache" and (tmp_path / gone).exists() else None
    (tmp_path / "train.jsonl").unlink()
    result = evaluate(compose("evaluate", [f"run={run}", "batch_size=5"]))
    loss, accuracy = by_hand(run, held_out)
    assert (result["loss"], result["accuracy"]) == pytest.approx((loss, accuracy), abs=1e-6)
    assert (summary["val_loss"], summary["val_accuracy"]) == pytest.approx((loss, accuracy), abs=1e-5)
    assert (result["examples"], result["bytes"]) == (12, None)
    assert result["data_hash"] == summary["data_hash"] and result["protocol"] == summary["protocol"]
    assert re.search(r"val loss .+accuracy .+examples *┃?\n", capsys.readouterr().out)

    # other records
    write(tmp_path / "more.jsonl", records(50)[40:])
    more = ["data=labelled", "data.files=[more.jsonl]", "data.val_fraction=1"]
    found = evaluate(compose("evaluate", [f"run={run}", *more]))
    assert found["loss"] == pytest.approx(by_hand(run, records(50)[40:])[0], abs=1e-6) and found["examples"] == 10
    write(tmp_path / "more.jsonl", [{"text": "barks", "label": "dog"}])
    with pytest.raises(
        UserError,
        match=r"^data=held-out example 1: has the label 'dog', which was never seen in training; .+ bird, cat, fish$",
    ):
        evaluate(compose("evaluate", [f"run={run}", *more]))
    with pytest.raises(UserError, match=r"^data=bundled: gives text, and the run's task learns from examples; "):
        evaluate(compose("evaluate", [f"run={run}", "data=bundled"]))

    # damaged
    path = run / "held_out/examples.jsonl"
    whole = path.read_bytes()
    for content in (whole[:-20], whole.replace(b"fish", b"bird", 1), b""):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=r"^data=\S+examples.jsonl: (cannot be read|is not what the run has written)"
        ):
            evaluate(compose("evaluate", [f"run={run}"]))


def test_data_that_a_task_does_not_learn_from(ask: Callable[..., TrainConfig], tmp_path: Path) -> None:
    why = "^data=bundled: gives text, and task=classification learns from examples; choose one of .*labelled"
    with pytest.raises(UserError, match=why):
        compose("train", ["task=classification", "data=bundled"])
    with pytest.raises(UserError, match=r"^data=labelled: gives examples, and task=causal_lm learns from text or "):
        compose("train", ["task=causal_lm", "data=labelled"])
    with pytest.raises(UserError, match=r"^data=labelled: gives no text; "):
        audit(compose("audit", ["data=labelled"]))
    with pytest.raises(UserError, match=r"^data=labelled: gives no text; "):
        prepare(ask().data, Byte())
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(UserError, match=r"^data.files=train.jsonl: line 41 is not JSON .+; "):
        train(ask())
    write(tmp_path / "train.jsonl", [])
    with pytest.raises(UserError, match=r"^data=labelled: has no example; give some"):
        train(ask())
    assert not (tmp_path / "run").exists()


def test_equal_records_are_on_one_side_whatever_their_order() -> None:
    many = [{"text": f"{i % 25}", "label": "a"} for i in range(100)]
    train_records, val = divide(many, 0.2)
    assert len(val) == 20 and not [each for each in val if each in train_records]
    assert sorted(each["text"] for each in divide(many[::-1], 0.2)[1]) == sorted(each["text"] for each in val)
    assert [len(side) for side in divide(many, 1.0)] == [0, 100] and len(divide(many, 0.001)[1]) == 4


@pytest.mark.slow
def test_it_goes_on_as_if_never_stopped(ask: Callable[..., TrainConfig], tmp_path: Path) -> None:
    more = ["data.micro_batch_size=2", "model.dropout=0.1", "checkpoint.every_n_steps=2", "optimizer=muon"]
    require_equal_after_a_kill(ask, tmp_path, 7, *more)


@pytest.mark.slow
def test_other_tasks_begin_with_its_weights(
    ask: Callable[..., TrainConfig], tiny: Callable[..., TrainConfig], tmp_path: Path, capsys: Any
) -> None:
    """The model of a run is taken whatever its head is; a head that it has no weights for begins as its task makes it."""

    def first_weights(*more: str) -> tuple[dict[str, torch.Tensor], str]:
        """What a run begins with, and what it says: its rate is next to nothing."""
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "budget.steps=1", f"run_dir={folder}"]
        train((tiny if "task=causal_lm" in more else ask)(*more, *still))
        saved: dict[str, torch.Tensor] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        return saved, capsys.readouterr().out

    train(tiny("model.tied=false", "model.block_size=30", f"run_dir={tmp_path}/lm"))
    lm = torch.load("lm/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    labels, said = first_weights("init_from=lm")
    line = "init_from=lm: it has no weights for the head of this task; new: score.weight, score.bias"
    assert line in said
    trunk = [name for name in lm if name != "gpt.lm_head.weight"]
    assert all(torch.equal(lm[name], labels[name.replace("gpt.", "gpt.gpt.", 1)]) for name in trunk)
    assert set(labels) == {name.replace("gpt.", "gpt.gpt.", 1) for name in trunk} | {
        "gpt.score.weight",
        "gpt.score.bias",
    }

    train(ask("init_from=lm"))
    capsys.readouterr()
    own = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    again, said = first_weights("init_from=run")
    assert "no weights" not in said and all(torch.equal(own[name], again[name]) for name in own)

    back, said = first_weights("task=causal_lm", "init_from=run")
    assert "init_from=run: it has no weights for the head of this task; new: lm_head.weight" in said
    assert all(torch.equal(own[name.replace("gpt.", "gpt.gpt.", 1)], back[name]) for name in trunk)

    with pytest.raises(UserError, match=r"^run=run: has the head of a task \(LastTokenHead: score.bias, score.weig"):
        export(compose("export", ["run=run", "out=exported", "format=gguf"]))
    assert not Path("exported").exists()
    with pytest.raises(UserError, match=r"^task=causal_lm: but the run that is resumed has classification"):
        train(compose("train", ["resume=run", "task=causal_lm", "search_metric=null", "data=bundled"], run=Path("run")))
    assert (
        main(["export", "run=run", "out=exported", "format=gguf"]) == 2 and "Traceback" not in capsys.readouterr().err
    )


@pytest.mark.slow
def test_runs_are_compared_on_the_records_that_both_hold_out(
    ask: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(ask("budget.steps=2", f"run_dir={tmp_path}/one"))
    write(tmp_path / "train.jsonl", records()[::-1] + records(44)[40:])  # in another order, and some more
    train(ask("budget.steps=30", f"run_dir={tmp_path}/two"))
    capsys.readouterr()
    result = compare(compose("compare", ["a=one", "b=two", "metric=loss", "resamples=2000"]))
    held_out = [held_out_records(tmp_path / name / "held_out")[0] for name in ("one", "two")]
    common = [each for each in held_out[0] if each in held_out[1]]
    assert result["examples"] == result["units"]["number"] == len(common) < max(map(len, held_out))
    assert result["examples_left_out"] == max(map(len, held_out)) - len(common)
    losses = [by_hand(tmp_path / name, common)[0] for name in ("one", "two")]
    found = result["difference"]
    assert found["value"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
    each = {name: [by_hand(tmp_path / name, [record])[0] for record in common] for name in ("one", "two")}
    gaps = np.array(each["two"]) - np.array(each["one"])
    drawn = gaps[np.random.default_rng(0).integers(0, len(gaps), (4000, len(gaps)))].mean(1)
    n = len(gaps)
    outside = stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1))  # Student's, on each side
    expected = np.quantile(drawn, [outside, 1 - outside])
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.05 * np.ptp(drawn))
    stored = json.loads((tmp_path / "one/compare/two.json").read_text())["per_unit"]
    assert sorted(stored["nats_b"]) == pytest.approx(sorted(each["two"]), abs=1e-6)
    said = capsys.readouterr().out
    assert f"over {len(common)} examples" in said and "accuracy" in said and "left out" in said
