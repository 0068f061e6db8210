"""Classification: the head equals that of transformers, and what every verb makes of a run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import GPT2ForSequenceClassification

import gptlab
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.report import report
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.data.batches.batch import IGNORE, tensors
from gptlab.data.batches.labelled import LabelledTexts, labelled_texts
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks.base import Reading
from gptlab.tasks.classification import Classification
from gptlab.tokenizers.byte import Byte
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.tasks.test_examples import LEARN, records, write

TEXTS = [{"text": "swims " * n + "on", "label": label} for n, label in ((1, "a"), (4, "b"), (2, "b"))]
Ask = Callable[..., TrainConfig]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    write(tmp_path / "train.jsonl", records())
    return lambda *more: compose("train", [*LEARN, f"run_dir={tmp_path}/run", *more])


def examples(too_long: str = "cut", training: bool = True, block_size: int = 30) -> LabelledTexts:
    return labelled_texts(TEXTS, ["a", "b"], Byte().build([]), block_size, too_long, training)


def test_logits_loss_and_gradient_are_those_of_transformers(tiny: Ask, tmp_path: Path) -> None:
    """Texts of unequal lengths: the label is told from the last token before the padding."""
    train(tiny("budget.steps=1"))
    export(compose("export", ["run=run", f"out={tmp_path}/hf"]))
    theirs = GPT2ForSequenceClassification.from_pretrained(tmp_path / "hf", num_labels=2, pad_token_id=0).eval()
    task = Classification(["a", "b"])
    ours: Any = task.head(gptlab.load("run")[0]).eval()
    with torch.no_grad():
        theirs.score.weight.copy_(ours.score.weight)
        ours.score.bias.zero_()
    every = examples()
    batch = every.__getitems__([0, 1, 2])
    assert batch.last.tolist() == [7, 25, 13] and batch.label.tolist() == [0, 1, 1]
    expected = theirs(batch.x, labels=batch.label)
    figures = task.losses(ours, *tensors(batch), reading=Reading())
    assert torch.allclose(ours(batch.x, batch.last), expected.logits, atol=1e-5)
    assert figures["loss"].mean().item() == pytest.approx(expected.loss.item(), abs=1e-5)
    assert figures["predicted"].tolist() == expected.logits.argmax(-1).tolist()
    assert figures["confidence"].tolist() == pytest.approx(
        expected.logits.softmax(-1).max(-1).values.tolist(), abs=1e-5
    )
    figures["loss"].mean().backward()
    expected.loss.backward()
    assert torch.allclose(ours.gpt.wte.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5)
    padded = every.__getitems__([0, 3])
    assert padded.label.tolist() == [0, IGNORE]
    losses = task.losses(ours, *tensors(padded), reading=Reading())["loss"]
    assert losses.tolist() == pytest.approx([figures["loss"][0].item(), 0.0], abs=1e-6)


@pytest.mark.parametrize(("norm", "asked", "expected"), [("layer", None, True), ("rms", None, False),
    ("layer", False, False), ("rms", True, True)])  # fmt: skip
def test_the_head_has_a_bias_where_the_last_norm_has_one(norm: str, asked: bool | None, expected: bool) -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=9, norm=norm))
    head: Any = Classification(["a", "b"], head_bias=asked).head(gpt)
    assert (head.score.bias is not None) is expected


def test_weights_of_labels_count_in_training_alone() -> None:
    task = Classification(class_weights="balanced").fitted(TEXTS)
    assert task.labels == ["a", "b"] and task.class_weights == pytest.approx([3 / 2, 3 / 4])
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])

    def losses(training: bool) -> list[float]:
        head = torch.nn.Module()
        head.forward = lambda x, last: logits  # type: ignore[method-assign]
        batch = tensors(examples().__getitems__([0, 1, 2]))
        found: list[float] = task.losses(head.train(training), *batch, reading=Reading())["loss"].tolist()
        return found

    plain = [float(np.log(np.exp(row).sum()) - row[i]) for row, i in zip(logits.numpy(), (0, 1, 1), strict=True)]
    assert losses(False) == pytest.approx(plain, rel=1e-5)
    assert losses(True) == pytest.approx(np.array(plain) * [1.5, 0.75, 0.75], rel=1e-5)
    assert Classification(class_weights=[1, 2]).fitted(TEXTS).class_weights == [1, 2]


def test_long_texts_are_cut_skipped_or_refused() -> None:
    cut = examples(block_size=20)
    assert (cut.describe(), cut.lengths.tolist()) == ("1 cut at their end", [8, 20, 14])
    assert bytes(cut.ids[1].tolist()).decode() == TEXTS[1]["text"][:20]
    skipped = examples("skip", block_size=20)
    assert (skipped.describe(), skipped.labels) == ("1 left out: too long", [0, 1])
    assert len(examples("skip", training=False, block_size=20)) == 3  # scores are of each record
    with pytest.raises(UserError, match=r"^data=training example 2: has 26 tokens, and the context has room for 20; "):
        examples("refuse", block_size=20)
    with pytest.raises(UserError, match=r"^task.too_long=skip: leaves out all 3 training examples: none fits in"):
        examples("skip", block_size=5)


def test_labels_that_cannot_be_learned() -> None:
    def refused(task: Callable[[], Any], why: str) -> None:
        with pytest.raises(UserError, match=why):
            task()

    one, many = [TEXTS[0]], [{"text": "a", "label": f"{i}"} for i in range(257)]
    refused(
        lambda: Classification().fitted(one), "^task.labels=a: is the only label; give texts of 2 to 256 labels, or"
    )
    refused(lambda: Classification().fitted(many), "^task.labels=0: and 256 others are more than 256 labels; ")
    refused(lambda: Classification().fitted([{"messages": []}]), "^data=example 1: has no text and label; choose data=")
    refused(lambda: Classification(["a", "a"]), "^labels=.*: has 'a' more than once")
    given = Classification(["a", "b", "c"], class_weights="balanced")
    refused(lambda: given.fitted(TEXTS), "^task.class_weights=balanced: the label 'c' has no example in training")
    refused(lambda: Classification(class_weights=[1]).fitted(TEXTS), r"^task.class_weights=\[1\]: has another length")
    for weights in ("even", [-1.0, 1.0], [float("nan"), 1.0], 3):
        refused(lambda: Classification(class_weights=weights), "^class_weights=.*: no such option; ")  # noqa: B023
    unseen = [*TEXTS, {"text": "x", "label": "dog"}]
    why = "^data=training example 4: has the label 'dog', which was never seen .*the labels are a, b"
    refused(lambda: Classification(["a", "b"]).fitted(unseen).examples(unseen, Byte().build([]), 30, True), why)
    assert [Classification(best_by=by).better for by in ("accuracy", "macro_f1", "loss")] == [
        "val/accuracy", "val/macro_f1", "val/loss"
    ]  # fmt: skip


@pytest.mark.slow
def test_every_verb(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = train(ask("budget.steps=20", "trainer.val_every_n_steps=10", "sample_prompts=null"))
    train(ask("budget.steps=1", f"run_dir={tmp_path}/other"))
    assert summary is not None
    capsys.readouterr()
    result = evaluate(compose("evaluate", ["run=run"]))
    said = capsys.readouterr().out
    assert re.search(r"val loss .+accuracy .+macro F1 .+ECE .+examples", said)
    assert re.search(r"label .+precision .+recall .+as bird .+as cat .+as fish", said)
    for name in ("loss", "accuracy", "macro_f1", "calibration_error"):
        assert summary[f"val_{name}"] == pytest.approx(result[name], abs=1e-5)
    held_out = [json.loads(line) for line in (tmp_path / "run/held_out/examples.jsonl").read_text().splitlines()]

    # what is predicted for each held-out text is what the matrix counts
    found = sample(compose("sample", ["run=run", f"prompts={json.dumps([each['text'] for each in held_out])}"]))
    assert all(sum(each["probabilities"].values()) == pytest.approx(1) for each in found["samples"])
    names = [each["label"] for each in result["labels"]]
    counts = np.zeros((3, 3), int)
    for record, each in zip(held_out, found["samples"], strict=True):
        counts[names.index(record["label"]), names.index(each["label"])] += 1
    assert names == ["bird", "cat", "fish"] and result["confusion"] == counts.tolist()
    costs = [-np.log(each["probabilities"][r["label"]]) for r, each in zip(held_out, found["samples"], strict=True)]
    assert result["loss"] == pytest.approx(np.mean(costs), abs=1e-5)
    one = sample(compose("sample", ["run=run", f"prompt={json.dumps(held_out[0]['text'])}"]))["samples"][0]
    assert one == found["samples"][0] and f"{one['label']} " in capsys.readouterr().out
    for given in ("decoder=greedy", "chat=true", "num_samples=2"):
        key = given.partition("=")[0]
        with pytest.raises(
            UserError, match=rf"^{key}=\w+: does not apply to a run that gives texts labels; leave it out"
        ):
            sample(compose("sample", ["run=run", given]))

    with pytest.raises(UserError, match="^run=run: its task, classification, does not predict the next token"):
        gptlab.generate("run", "hello")

    # held-out texts are what is shown; pictures of the last validation are in the run, in TensorBoard and in a report
    assert [line for line in (tmp_path / "run/samples.jsonl").read_text().splitlines() if '"step": 10' in line]
    config = compose("train", run=tmp_path / "run")
    assert config.sample_prompts == [each["text"] for each in held_out[:3]]
    images = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    for name in ("confusion", "calibration"):
        shown = images.Images(f"val/{name}")
        assert [each.step for each in shown] == [10, 20]
        assert shown[1].encoded_image_string == (tmp_path / f"run/pictures/{name}.png").read_bytes()
    (tmp_path / "other/pictures/odd.png").write_text("<script>")
    report(compose("report", ["runs=.", "pictures=false"]))
    page = (tmp_path / "report/report.html").read_text()
    assert page.count('<img alt="confusion"') == page.count('<img alt="calibration"') == 2 and 'alt="odd"' not in page

    # compared example by example, by any metric
    other = evaluate(compose("evaluate", ["run=other"]))
    for name, unit in {"accuracy": "share of examples", "macro_f1": "", "loss": "nats per example"}.items():
        compared = compare(compose("compare", ["a=other", "b=run", f"metric={name}", "resamples=100"]))
        assert compared["difference"]["value"] == pytest.approx(result[name] - other[name]) and compared["unit"] == unit


@pytest.mark.slow
def test_adapters_train_the_head_besides(tiny: Ask, ask: Ask, tmp_path: Path) -> None:
    base = train(tiny("budget.steps=1", "model.block_size=30", f"run_dir={tmp_path}/base"))
    assert base is not None
    trained = {"head": (), "last_n": ("blocks.1.", "ln_f."), "bitfit": (".bias",)}
    for adapter, parts in trained.items():
        run = tmp_path / adapter
        train(ask("init_from=base", f"adapter={adapter}", "budget.steps=1", f"run_dir={run}"))
        names = set(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
        rest = names - {"gpt.score.weight", "gpt.score.bias"}
        assert names - rest and all(any(part in name for part in parts) for name in rest) and bool(rest) == bool(parts)
        assert evaluate(compose("evaluate", [f"run={run}"]))["examples"] == 12
