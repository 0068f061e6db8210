"""The search on little text: what it tries is valid, what it never sees, and that the recipe is what it found."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gptlab.config import compose
from gptlab.training.config import TrainConfig

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
RESULTS = FOLDER / "results/data_limited-h100.json"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import data_limited  # type: ignore[import-not-found]

    return data_limited


def learns(config: TrainConfig) -> dict[str, Any]:
    """Return all that decides what the model becomes."""
    found: dict[str, Any] = {
        key: dataclasses.asdict(getattr(config, key)) for key in ("model", "optimizer", "schedule", "budget")
    }
    return found | {"batch": config.data.batch_size, "repack": config.data.repack, "ema": config.ema}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_all_that_is_tried_is_a_config_of_its_own(bench: Any) -> None:
    tried = [levels for stage in bench.settings().values() for levels in stage.values()]
    found = [str(learns(compose("train", bench.overrides(levels, "cpu")))) for levels in tried]
    assert len(tried) == len(set(found)) == 30


def test_the_recipe_is_the_best_of_what_was_tried(bench: Any) -> None:
    results = json.loads(RESULTS.read_text())
    stages = bench.settings()
    for work in results["workloads"][1:]:
        assert {name: run["levels"] for name, run in work["runs"].items()} == stages[work["name"]]
    chosen = bench.chosen(results["workloads"])
    assert chosen == results["chosen"]
    every = [run[bench.BITS] for work in results["workloads"] for run in work["runs"].values()]
    assert chosen[bench.BITS] == min(every)
    recipe = compose("train", ["experiment=data_limited"])
    assert learns(recipe) == learns(compose("train", bench.overrides(chosen["levels"], "cpu")))


def test_the_search_never_sees_the_text_that_is_held_out(bench: Any, tmp_path: Path) -> None:
    documents = [f"{n} " + "some words of a document " * (5 + n % 7) for n in range(400)]
    (tmp_path / "documents.json").write_text(json.dumps(documents))
    files = bench.divided(tmp_path / "texts", tmp_path / "documents.json")
    outer, inner = (
        [[json.loads(line)["text"] for line in file.read_text().splitlines()] for file in files[name]]
        for name in ("outer", "inner")
    )
    assert sorted(outer[0] + outer[1]) == sorted(documents) and sorted(inner[0] + inner[1]) == sorted(outer[0])
    share = [
        sum(map(len, part)) / sum(map(len, whole)) for part, whole in ((outer[1], documents), (inner[1], outer[0]))
    ]
    assert share == pytest.approx([0.1, 0.1], abs=0.01)


def test_what_is_trained_last_is_scored_alone_and_together(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trainings are played: a run's score is told by its steps and seed."""
    asked: list[list[str]] = []

    def play(command: list[Any], env: Any = None, cwd: Any = None) -> Any:
        words = list(map(str, command))
        given = dict(word.split("=", 1) for word in words if "=" in word)
        asked.append(words)
        if "evaluate" in words:
            said = {"bits_per_byte": 1.5 - 0.01 * given["run"].count(",")}
            return argparse.Namespace(code=0, out=json.dumps(said))
        run = Path(given["run_dir"])
        run.mkdir(parents=True)
        bits = (2.0 if "budget.steps" in given and given["budget.steps"] != "null" else 1.6) + 0.1 * int(given["seed"])
        said = {bench.BITS: bits, bench.LOSS: 3.0, "steps": 1, "tokens": 1, "seconds": 1.0}
        (run / "summary.json").write_text(json.dumps(said))
        return argparse.Namespace(code=0, out="")

    monkeypatch.setattr(bench, "fresh", play)
    monkeypatch.setattr(
        bench,
        "machine",
        lambda: {"gpu": {"name": "played"}, "processor": "", "cores": 1, "threads": 1, "versions": {"torch": ""}},
    )
    (tmp_path / "documents.json").write_text(json.dumps([f"{n} and more words" for n in range(300)]))
    options = argparse.Namespace(folder=tmp_path, documents=tmp_path / "documents.json", device="cpu", jobs=2, also=[])
    options.found, options.out, options.seeds = RESULTS, tmp_path / "out.json", 3
    bench.final(bench.Bench(options), options)
    rows = json.loads(options.out.read_text())["workloads"][0]["candidates"]
    assert rows["default"][bench.BITS] == pytest.approx(2.2) and rows["found"][bench.BITS] == pytest.approx(1.8)
    assert rows["found"]["deviation"] == pytest.approx(0.1)
    assert [rows[f"found, {n} together"][bench.BITS] for n in (2, 3)] == pytest.approx([1.49, 1.48])
    trained = [words for words in asked if "train" in words]
    assert len(trained) == 6 and all(f"data.val_files=[{tmp_path}/texts/outer-held-out.jsonl]" in w for w in trained)


def test_the_table_of_the_held_out_text(bench: Any) -> None:
    """The page has the scores of the last trainings, of what the search chose, and the recipe is the better one."""
    found = json.loads((FOLDER / "results/data_limited-final-2-cores.json").read_text())
    (work,) = found["workloads"]
    assert work["chosen"] == json.loads(RESULTS.read_text())["chosen"]
    page, rows = (FOLDER.parent / "docs/training.md").read_text(), work["candidates"]
    for kind, label in (("default", "the default run, 8,000 steps"), ("found", "the recipe")):
        each = ", ".join(f"{run[bench.BITS]:.4f}" for run in rows[kind]["runs"])
        assert f"| {label} | {each} | {rows[f'{kind}, 2 together'][bench.BITS]:.4f} |" in page
    worst = max(run[bench.BITS] for run in rows["found"]["runs"])
    assert worst < min(run[bench.BITS] for run in rows["default"]["runs"]) - 0.05
