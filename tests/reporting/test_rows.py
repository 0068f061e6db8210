import json
import math
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gptlab.checksums import write_checksums
from gptlab.evaluation.kept_scores import kept_scores
from gptlab.evaluation.statistics import expected_best
from gptlab.metrics import metric
from gptlab.reporting.interactive import page_data
from gptlab.reporting.rows import MOST_SCORES, Report, scores_of_seeds, tabulate
from gptlab.reporting.table import heads, lines, records
from gptlab.runs.reader import find_runs
from tests.written_runs import MakeRun


def report() -> Report:
    return tabulate(find_runs(["runs"]))


def test_mean_and_standard_error_over_seeds(make_run: MakeRun) -> None:
    worse, better = [2.5, 2.9, 2.6], [2.1, 2.2]
    for i, loss in enumerate(worse):
        make_run(f"{i}", loss, seed=i)
    for i, loss in enumerate(better):
        make_run(f"{3 + i}", loss, seed=i, optimizer__lr=0.1)
    make_run("5", 0.1, "failed", seed=7)
    make_run("6", None, seed=8, rows=["10,nan,512,nan,nan"])
    found = report()
    assert [row.run.name for row in found.rows] == ["3", "4", "0", "1", "2", "5", "6"]
    assert found.label(found.rows[2]) == "lr=0.001" and found.label(found.rows[-1], seed=True) == "lr=0.001, seed=8"
    assert [row.group for row in found.rows] == [0, 0, 1, 1, 1, 1, 1]
    for row in found.rows:
        values = np.array(better if row.group == 0 else worse, np.float64)
        assert row.mean == pytest.approx(values.mean()) and row.seeds == len(values)
        assert row.error == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    assert math.isnan(found.rows[-1].figures["val_loss"] or 0)
    assert found.label(found.rows[0]) == "lr=0.1" and found.label(found.rows[0], seed=True) == "lr=0.1, seed=0"
    assert "Only finished runs count for means and ranks." in found.notes
    assert "All have the same budget: steps=10." in found.notes


@pytest.mark.slow
def test_a_run_takes_little_memory(make_run: MakeRun) -> None:
    steps = [f"{step},{3 - step / 1e3},{256 + step},{3.1 - step / 1e3},1.5" for step in range(1, 301)]
    held = []
    for count in (20, 60):
        for number in range(count):
            if not Path(f"runs/{number}").exists():
                make_run(str(number), loss=2 + number / 100, seed=number, rows=steps)
        report()  # all is imported and cached then
        tracemalloc.start()
        kept = report()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(kept.rows) == count
    values = 300 * 4 * 8 + 300 * 8  # 300 steps with four metrics each
    assert (held[1] - held[0]) / 40 < values + 8_000  # bytes


def test_one_run(make_run: MakeRun) -> None:
    make_run("a")
    (row,) = report().rows
    assert (row.mean, row.error, row.seeds) == (2.0, None, 1)
    assert report().label(row) == "a" and report().notes == []


def test_a_running_run_has_the_figures_of_its_metrics(make_run: MakeRun) -> None:
    path = make_run("a", 2.25, "running")
    (row,) = report().rows
    assert [row.figures[key] for key in ("steps", "tokens", "val_loss", "tokens_per_second")] == [10, 1280, 2.25, 512.0]
    assert row.figures["seconds"] == pytest.approx(2.5 + 1.25)
    assert (row.mean, row.status) == (None, "running")
    for file in path.glob("*.*"):
        os.utime(file, (0, 0))
    found = report()
    assert found.rows[0].status == "running?" and "running?: nothing was written for 15 minutes" in found.notes[0]


def test_runs_with_several_tokenizers_are_ranked_by_bits_per_byte(make_run: MakeRun) -> None:
    make_run("a", 2.0, tokenizer="one")
    make_run("b", 1.0, tokenizer="two", seed=2, summary={"val_bits_per_byte": 3.0, "data_hash": "e"})
    found = report()
    assert found.score.name == "val/bits_per_byte" and [row.run.name for row in found.rows] == ["a", "b"]
    assert found.notes[0] == "There are 2 tokenizers: val loss and perplexity do not compare between them."
    assert found.notes[1] == "There are 2 different texts: compare only runs on the same one."


def test_keys_are_short_where_that_is_clear(make_run: MakeRun) -> None:
    make_run("a", schedule={"min_ratio": 0.1, "steps": 1})
    make_run("b", schedule={"min_ratio": 0.2, "steps": 2}, budget={"steps": 20})
    found = report()
    assert found.keys == {
        "schedule.min_ratio": "min_ratio",
        "schedule.steps": "schedule.steps",
        "budget.steps": "budget.steps",
    }
    assert not any("budget" in note for note in found.notes)


def test_which_budget_is_held_fixed(make_run: MakeRun) -> None:
    """One unit in several amounts is a variable; several units are one column."""
    make_run("a", budget={"steps": 20, "minutes": None})
    make_run("b", budget={"steps": 10, "minutes": None})
    assert report().keys == {"budget.steps": "budget.steps"}
    make_run("c", budget={"steps": None, "minutes": 2.5, "seconds_per_step": 0.25})
    found = report()
    assert found.keys == {"budget": "budget"}
    assert {row.run.name: row.asked["budget"] for row in found.rows} == {
        "a": "steps=20",
        "b": "steps=10",
        "c": "minutes=2.5",
    }


@pytest.mark.parametrize(
    ("budgets", "note"),
    [
        ([{"steps": None}, {"steps": None}], "steps=900"),
        ([{"minutes": 2.0, "seconds_per_step": 0.25}, {"minutes": 2.0, "seconds_per_step": 0.5}], "minutes=2"),
        ([{"flops": 1e15}, {"flops": 1e15}], "flops=1e+15"),
    ],
)
def test_the_same_budget(budgets: list[dict[str, Any]], note: str, make_run: MakeRun) -> None:
    for i, budget in enumerate(budgets):
        make_run(str(i), budget=budget, seed=i)
    found = report()
    assert found.notes == [f"All have the same budget: {note}."] and found.keys == {"seed": "seed"}
    assert found.rows[0].seeds == 2


def test_a_seed_that_was_run_again_counts_once(make_run: MakeRun) -> None:
    for i, (loss, seed) in enumerate([(2.0, 1), (2.0, 1), (3.0, 2)]):
        make_run(f"{i}", loss, seed=seed)
    row = report().rows[0]
    assert (row.seeds, row.mean) == (2, 2.5) and row.error == pytest.approx(np.std([2.0, 3.0], ddof=1) / np.sqrt(2))
    assert [report().label(row, seed=True) for row in report().rows] == ["seed=1, run=0", "seed=1, run=1", "seed=2"]


def test_scores_of_tasks_are_columns(make_run: MakeRun) -> None:
    """Those of the last checkpoint, and of no earlier one of that name; ours and lm-eval's."""
    a, b = make_run("a", 2.0), make_run("b", 1.0, seed=2)
    for run in (a, b):
        (run / "tasks").mkdir()
    now, then = "1" * 64, "2" * 64
    (a / "checkpoints").mkdir()
    write_checksums(a / "checkpoints", {"last.ckpt": [now], "best.ckpt": [then]})
    scores = {"acc": 0.25, "acc_stderr": 0.1, "chance": 0.5, "checkpoint": "last.ckpt", "checkpoint_sha256": now}
    kept = {
        "qa": scores,
        "qa-best": {**scores, "acc": 0.75, "checkpoint": "best.ckpt", "checkpoint_sha256": then},
        "old": {**scores, "checkpoint_sha256": then},
        "of gptlab 0.2": {"bits_per_byte": 2.5, "checkpoint": "last.ckpt"},
        "arc": {"acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": math.nan, "sample_len": 9, "alias": "arc"},
    }
    for name, result in kept.items():
        (a / f"tasks/{name}.json").write_text(json.dumps(result))
    (b / "tasks/qa.json").write_text(json.dumps({"acc": 0.125}))
    (b / "tasks/damaged.json").write_text("{")
    found = report()
    names = [key for key in found.figures if " " in key]
    assert names == ["arc acc,none", "of gptlab 0.2 bits_per_byte", "qa acc"]
    assert {row.run.name: [row.figures[key] for key in names] for row in found.rows} == {
        "a": [0.5, 2.5, 0.25],
        "b": [None, None, 0.125],
    }
    assert kept_scores(a, "best.ckpt") == {"qa acc": 0.75}
    assert {"qa acc", "arc acc,none"} < set(heads(found)) and "0.250" in lines(found)[0]
    assert [each["qa acc"] for each in records(found)] == [0.25, 0.125]
    (a / "tasks/many.json").write_text(json.dumps({f"acc,{n}": 0.5 for n in range(60)}))
    crowded = report()
    assert len([key for key in crowded.figures if " " in key]) == MOST_SCORES
    assert "23 more scores of tasks are in the runs' tasks; the table has the first 40." in crowded.notes


def test_the_loss_of_several_tasks_is_not_said_to_be_per_token(make_run: MakeRun) -> None:
    make_run("a", parts={"task": "classification"}, task={"best_by": "loss"})
    assert report().score.axis == "loss (nats per example)"
    make_run("b")
    found = report()
    assert found.score.axis == "loss (nats per target)" and b'"loss (nats per target)"' in b"".join(page_data(found))


def test_the_best_of_several_is_said_to_be_lucky(make_run: MakeRun) -> None:
    for i in range(3):
        make_run(f"{i}", 2.0 + i, optimizer__lr=0.1 * (1 + i))
    note = "The best of 3 was lucky, too: run again, expect it to be worse by up to 0.85 deviations of a seed"
    assert report().notes[-1] == f"{note}, which is not known here."
    make_run("3", 3.2, seed=2, optimizer__lr=0.2)  # beside 3.0 of the second: a deviation of 0.1 times the root of 2
    assert report().notes[-1] == f"{note} ({0.846284 * 0.1 * math.sqrt(2):.4f})."
    make_run("4", 2.1, seed=2, optimizer__lr=0.1)  # the best is of two seeds now
    both = math.sqrt((0.2**2 / 2 + 0.1**2 / 2) / 2)
    assert report().notes[-1].endswith(f"0.60 deviations of a seed ({0.846284 / math.sqrt(2) * both:.4f}).")


def test_importance_in_a_search(make_run: MakeRun) -> None:
    """The rate decides who finishes and how well; pruned trials count behind the finished ones, the seed not at all."""
    for i in range(12):
        far = i % 6  # from the best rate
        folder = make_run(
            f"s/{i}-x",
            2.0 + 0.1 * far - (1.0 if far > 3 else 0.0),  # early losses of what was pruned late in the order
            "pruned" if far > 3 else "finished",
            summary={"steps": 10 - far},
            optimizer__lr=10.0 ** (far - 3),
            model__dropout=[0.0, 0.1][i // 6],
            seed=i,
        )
        overrides = [f"optimizer.lr={10.0 ** (far - 3)}", f"model.dropout={[0.0, 0.1][i // 6]}"]
        (folder / "job.json").write_text(json.dumps({"job": i, "overrides": overrides}))
    assert report().importance == {}  # a sweep that was no search
    (folder.parent / "optimization_results.yaml").write_text("name: search")
    found = report()
    ((where, shares),) = found.importance.items()
    assert where == str(folder.parent) and list(shares) == ["optimizer.lr", "model.dropout"]
    assert shares["optimizer.lr"] > 0.95 and shares["model.dropout"] == 0.0
    assert found.notes[-1] == (
        f"Importance in the search, 12 trials: lr {shares['optimizer.lr']:.0%}, dropout 0% "
        "(of the variance of their ranks by val loss, each key alone)."
    )


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_winner_s_score_is_unbiased_once_it_is_confirmed(spread: float, tmp_path: Path) -> None:
    """Of 20 configs with one seed each, five more seeds of the best: 25 runs, a quarter of five seeds of them all.

    Scores deviate by 1 between seeds, and by `spread` between configs.
    """
    again = tmp_path / "confirm"
    for folder in (again / "0", tmp_path / "0"):
        folder.mkdir(parents=True)
        (folder / "job.json").touch()
    (tmp_path / "sweep.json").touch()
    score, rng = metric("val/loss"), np.random.default_rng(5)

    def row(folder: Path, seed: int, value: float) -> Any:
        run = SimpleNamespace(path=folder / "0", status="finished", config={"seed": seed})
        return SimpleNamespace(run=run, figures={score.key: value})

    worlds = 1000
    flattery, confirmed = np.empty(worlds), np.empty(worlds)
    for world in range(worlds):
        truth = spread * rng.standard_normal(20)
        scores = truth + rng.standard_normal(20)
        best = int(scores.argmin())
        fresh = [row(again, 2 + i, truth[best] + rng.standard_normal()) for i in range(5)]
        counted = scores_of_seeds([row(tmp_path, 1, scores[best]), *fresh], score)
        flattery[world], confirmed[world] = scores[best] - truth[best], np.mean(counted) - truth[best]
    assert abs(confirmed.mean()) < 0.05  # its own error is 0.014
    assert flattery.mean() == pytest.approx(-expected_best(20) / math.sqrt(1 + spread**2), abs=0.1)
