"""The seam between tasks and everything else: a metric and a task of another package, and nothing else changed."""

import csv
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

import gptlab
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.main import main
from gptlab.commands.replay import replay
from gptlab.commands.report import report
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.data.batches.windows import held_out
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from gptlab.evaluation.model import load_with_task
from gptlab.reporting.pictures import best_so_far
from gptlab.reporting.rows import tabulate
from gptlab.runs.reader import find_runs
from gptlab.runs.run_dir import RunDir
from gptlab.sweep import launcher
from gptlab.tasks.saved import task_of
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.tasks.toys import Ends, labelled
from tests.training.test_resume import require_equal_after_a_kill

Tiny = Callable[..., TrainConfig]
LEARN = ["task=ends", "budget.steps=40", "optimizer.lr=0.01", "trainer.val_every_n_steps=5", "data.val_fraction=0.3"]


def column(run: Path, name: str) -> list[tuple[int, float]]:
    with (run / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(file) if row[name]]


def by_hand(run: Path) -> tuple[float, float]:
    """Mean loss and accuracy over the held-out windows, one at a time, in float64."""
    _, gpt, tokenizer = load_with_task(RunDir.find(str(run)))
    tokens, _ = held_out_stream(run / "held_out")
    windows = held_out(tokens, 32, tokenizer.eot, False)
    losses, right = [], []
    for i in range(len(windows)):
        x, last, label, *_ = labelled(windows.__getitems__([i]))
        logits = gpt.double()(x[:, : int(last[0]) + 1], last)[0].detach().numpy()
        losses.append(np.log(np.exp(logits).sum()) - logits[int(label[0])])
        right.append(logits.argmax() == int(label[0]))
    return float(np.mean(losses)), float(np.mean(right))


@pytest.mark.slow
def test_a_metric_is_one_row_and_its_computation(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    summary = train(tiny(*LEARN))
    said = capsys.readouterr().out
    assert summary is not None and (summary["steps"], summary["tokens"]) == (40, 40 * 4 * 32)  # not the 160 examples
    curve = column(run, "val/accuracy")
    assert [step for step, _ in curve] == list(range(5, 41, 5)) and curve[-1][1] > curve[0][1]
    assert summary == json.loads((run / "summary.json").read_text())
    assert summary["val_accuracy"] == pytest.approx(curve[-1][1])
    assert set(summary) & {"val_perplexity", "val_bits_per_byte"} == set()
    loss, accuracy = by_hand(run)
    assert (summary["val_loss"], summary["val_accuracy"]) == pytest.approx((loss, accuracy), abs=1e-6)

    # the line of a validation, the panel at the end
    first = next(line for line in said.splitlines() if line.startswith("step  5/40"))
    line = rf"step  5/40 · train loss \S+ · val loss \S+ · accuracy {curve[0][1]:.1%}( · \d:\d\d:\d\d left)?"
    assert re.fullmatch(line, first)
    assert re.search(r"parameters +tokens seen +val loss +accuracy +tokens/s +time", said)
    assert "predicted: the cat: no vowel" in said  # what the task shows

    # TensorBoard
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    content = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = {chart.title: list(chart.multiline.tag) for c in Layout.FromString(content).category for chart in c.chart}
    assert charts["accuracy"] == ["val/accuracy"] and "perplexity" not in charts
    assert [e.step for e in events.Scalars("val/accuracy")] == [step for step, _ in curve]

    # the best checkpoint is the first of the highest
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["global_step"]
    highest = max(value for _, value in curve)
    assert best == next(step for step, value in curve if value == highest)

    # evaluation
    result = evaluate(compose("evaluate", [f"run={run}"]))
    said = capsys.readouterr().out
    assert set(result) >= {"loss", "accuracy", "examples"} and set(result) & {"perplexity", "tokens"} == set()
    assert (result["loss"], result["accuracy"]) == pytest.approx((loss, accuracy), abs=1e-6)
    assert f"{result['accuracy']:.2%}" in said and re.search(r"val loss .+accuracy .+examples .+bytes", said)
    assert result["examples"] == len(held_out(held_out_stream(run / "held_out")[0], 32, 256, False))
    assert type(gptlab.load(run)[0]).__name__ == "Classifier"
    assert gptlab.evaluate(run, batch_size=3)["accuracy"] == result["accuracy"]


@pytest.mark.slow
def test_higher_is_better_in_a_report(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lr in (0.01, 1e-5):
        train(tiny(*LEARN, f"optimizer.lr={lr}", f"run_dir={tmp_path}/outputs/{lr}"))
    capsys.readouterr()
    result = report(compose("report"))
    good, bad = result["runs"]
    assert (good["optimizer.lr"], bad["optimizer.lr"]) == (0.01, 1e-5)
    assert good["val_accuracy"] == good["mean_val_accuracy"] > bad["val_accuracy"] and good["val_loss"]
    head = "| run | accuracy ± s.e. (seeds) | steps | tokens | FLOPs | time | val loss | accuracy | tokens/s | status | lr |"
    out = tmp_path / "outputs/report"
    assert (out / "report.md").read_text().startswith(head)
    with (out / "report.csv").open() as file:
        assert [float(row["val_accuracy"]) for row in csv.DictReader(file)] == [r["val_accuracy"] for r in (good, bad)]
    page = (out / "report.html").read_text()
    assert re.search("<th[^>]*>accuracy</th>", page) and f">{good['val_accuracy']:.2%}</td>" in page


def test_the_best_so_far_is_the_highest(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: Callable[..., Path]
) -> None:
    for i, accuracy in enumerate([0.5, 0.25, 0.75]):
        run = make_run(f"{i}", summary={"val_accuracy": accuracy}, parts={"task": "ends"}, gptlab={"layout": 2}, seed=i)
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k != "defaults"}))
    found: list[Any] = []
    monkeypatch.setattr("gptlab.reporting.pictures.png", lambda figure: found.append(figure) or b"")
    best_so_far(tabulate(find_runs(["runs"])))
    (panel,) = found[0].axes
    assert list(panel.lines[0].get_ydata()) == [0.5, 0.5, 0.75]
    assert panel.get_title() == "highest: 75.00% with seed=2"
    assert panel.get_ylabel() == "final held-out accuracy (share of examples)"
    assert panel.get_legend().get_texts()[0].get_text() == "highest so far"


@pytest.mark.slow
def test_runs_are_compared_example_by_example(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, more in {"one": ["budget.steps=2"], "two": [], "lm": ["task=causal_lm", "budget.steps=1"]}.items():
        train(tiny(*LEARN, *more, f"run_dir={tmp_path}/{name}"))
    capsys.readouterr()
    result = compare(compose("compare", ["a=one", "b=two", "resamples=200"]))
    scores = [evaluate(compose("evaluate", [f"run={name}"])) for name in ("one", "two")]
    assert (result["metric"], result["better"], result["examples"]) == ("accuracy", "higher", scores[0]["examples"])
    gap = scores[1]["accuracy"] - scores[0]["accuracy"]
    assert result["difference"]["value"] == pytest.approx(gap) and result["difference"]["low"] <= gap
    with pytest.raises(UserError, match=r"^b=lm: its task is CausalLM\(\), and that of one is Ends"):
        compare(compose("compare", ["a=one", "b=lm"]))
    with pytest.raises(
        UserError, match=r"^metric=perplexity: no such metric of the task; choose one of loss, accuracy"
    ):
        compare(compose("compare", ["a=one", "b=two", "metric=perplexity"]))
    train(tiny(*LEARN, "budget.steps=1", "model.block_size=16", f"run_dir={tmp_path}/short"))
    with pytest.raises(UserError, match=r"^data=held-out: 0 examples are held out by all of the runs; "):
        compare(compose("compare", ["a=one", "b=short"]))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [10, pytest.param(31, marks=pytest.mark.slow)])
def test_it_is_resumed_as_if_never_stopped(batch: int, tiny: Tiny, tmp_path: Path) -> None:
    more = [*LEARN, "data.micro_batch_size=2", "checkpoint.every_n_steps=3", "model.dropout=0.1", "ema=0.9"]
    require_equal_after_a_kill(tiny, tmp_path, batch, *more, "budget.steps=20")
    best = [torch.load(tmp_path / name / "checkpoints/best.ckpt", weights_only=True) for name in ("run", "whole")]
    assert best[0]["global_step"] == best[1]["global_step"]


@pytest.mark.parametrize("precision", [pytest.param("bf16-mixed", marks=pytest.mark.slow), "bf16-true"])
def test_it_trains_in_low_precision(precision: str, tiny: Tiny) -> None:
    summary = train(tiny(*LEARN, f"trainer.precision={precision}"))
    assert summary is not None and summary["val_accuracy"] > 0.5


@pytest.mark.slow
def test_it_is_compiled(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without inductor, which takes most of a compilation's time; tests/training/test_devices.py has a run with it."""
    monkeypatch.setattr(Loss, "compile", functools.partialmethod(Loss.compile, backend="aot_eager"))
    plain = train(tiny(*LEARN))
    compiled = train(tiny(*LEARN, "compile=true", f"run_dir={tmp_path}/compiled"))
    assert plain is not None and compiled is not None
    assert compiled["val_loss"] == pytest.approx(plain["val_loss"], abs=1e-3)


def test_what_needs_the_next_token_says_so(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*LEARN, "budget.steps=1"))
    (tmp_path / "a.txt").write_text("the cat")
    item = {"context": "a", "choices": ["b", "c"], "answer": 0}
    (tmp_path / "own.jsonl").write_text(2 * (json.dumps(item) + "\n"))
    why = r"=\S*run: its task, ends, does not predict the next token; see its scores in gptlab evaluate and report$"
    asked: list[tuple[str, Callable[[], Any]]] = [
        ("run", lambda: sample(compose("sample", ["run=run"]))),
        ("run", lambda: replay(compose("replay", ["run=run", "step=1"]))),
        ("run", lambda: evaluate(compose("evaluate", ["run=run", "explain=true", "text=a.txt"]))),
        ("run", lambda: evaluate(compose("evaluate", ["run=run", "tasks=[own.jsonl]"]))),
        ("a", lambda: compare(compose("compare", ["a=run", "b=run", "tasks=[own.jsonl]"]))),
    ]
    for key, ask in asked:
        with pytest.raises(UserError, match=f"^{key}{why}"):
            ask()
    with pytest.raises(UserError, match=r"^protocol=sliding: reads a text .+, and the run's task, ends, does not"):
        evaluate(compose("evaluate", ["run=run", "protocol=sliding"]))


@pytest.mark.slow
def test_a_search_for_the_highest(
    texts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")

    def run_all(waiting: list[Any], machine: Any, watch: Any) -> None:
        for job, _ in waiting:  # here, where the task is registered
            train(compose("train", [f"run_dir='{job.path.resolve()}'"], run=job.path))

    monkeypatch.setattr(launcher, "run_all", run_all)
    search = [
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2",
    ]
    asked = [each if "lr" not in each else "optimizer.lr=choice(1e-5,1e-2)" for each in LEARN]
    assert main(["train", "-m", *tiny_overrides(texts), *asked, *search, "json=true"]) == 0
    out, err = capfd.readouterr()
    runs = json.loads(out)["runs"]
    accuracies = [run["val_accuracy"] for run in runs]
    assert accuracies[0] != accuracies[1] and {run["search_metric"] for run in runs} == {"val/accuracy"}
    best = yaml.safe_load(next(Path("outputs/multirun").rglob("optimization_results.yaml")).read_text())
    assert best["best_value"] == -max(accuracies)
    assert re.search(r"steps .+accuracy .+seconds", err) and f"{max(accuracies):.1%}" in err


def test_the_task_of_a_run() -> None:
    assert task_of({"parts": {"task": "ends"}, "task": {"n_classes": 3}}) == Ends(3)
    assert type(task_of({})).__name__ == "CausalLM"  # runs of layout 1, and imported models
    with pytest.raises(UserError, match=r"^task=none: is not an option here; enable the plugin"):
        task_of({"parts": {"task": "none"}})
    with pytest.raises(UserError, match=r"^task=ends: .+ unexpected keyword argument 'x'; "):
        task_of({"parts": {"task": "ends"}, "task": {"x": 3}})


def test_runs_of_several_tasks(make_run: Callable[..., Path]) -> None:
    """An unknown task is listed too; what is of one task is not shown of another."""
    for i, task in enumerate(["ends", "causal_lm", "causal_lm", "none"]):
        run = make_run(f"{i}", 2.0 + i, parts={"task": task}, gptlab={"layout": 2}, summary={"val_accuracy": 0.5})
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k != "defaults"}))
    found = tabulate(find_runs(["runs"]))
    assert found.notes[0] == "There are 2 tasks: runs are ranked by val loss, and compare only within one."
    assert len(found.rows) == 4 and {"val_accuracy", "val_perplexity"} <= set(found.figures)
