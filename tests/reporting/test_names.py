import json
from pathlib import Path
from typing import Any

from gptlab.reporting.rows import Report, tabulate
from gptlab.runs.reader import find_runs
from tests.written_runs import MODEL, MakeRun


def report() -> Report:
    return tabulate(find_runs(["runs"]))


def sweep(make_run: MakeRun, folder: str, jobs: list[dict[str, str]], **settings: Any) -> None:
    """Write the jobs of a sweep, with what each of them was given on the command line."""
    for number, chosen in enumerate(jobs):
        groups = {key.replace(".", "__"): float(value) for key, value in chosen.items() if "." in key}
        seed = {"seed": int(chosen["seed"])} if "seed" in chosen else {}
        preset = {"preset": chosen["model"], "model": {**MODEL, "n_layer": number + 3}} if "model" in chosen else {}
        path: Path = make_run(f"{folder}/{number}-job", 2.0 + number, **(settings | groups | seed | preset))
        overrides = [f"{key}={value}" for key, value in chosen.items()]
        (path / "job.json").write_text(json.dumps({"job": number, "overrides": [*overrides, "budget.steps=10"]}))


def test_runs_are_called_by_their_experiment_or_sweep_and_what_differs_in_it(make_run: MakeRun) -> None:
    rates = [{"optimizer.lr": lr, "seed": seed} for lr in ("1e-3", "3e-3") for seed in ("1", "2")]
    sweep(make_run, "multirun/2026-11-26/12-00-00", rates)
    sweep(make_run, "multirun/2026-11-26/13-00-00", [{"model": "micro"}, {"model": "nano"}], seed=7, name="sizes")
    sweep(make_run, "multirun/2026-11-26/14-00-00", [{"optimizer.beta1": "0.5"}, {"optimizer.beta1": "0.25"}])
    make_run("2026-11-26/12-30-00-verdict", name="verdict", data__batch_size=9, optimizer__lr=0.5)
    make_run("2026-11-26/12-40-00-nano", optimizer__weight_decay=0.5)
    found = report()
    assert {found.label(row, seed=True) for row in found.rows} == {
        "nano 12-00-00: lr=0.001, seed=1",
        "nano 12-00-00: lr=0.001, seed=2",
        "nano 12-00-00: lr=0.003, seed=1",
        "nano 12-00-00: lr=0.003, seed=2",
        "sizes: model=micro",
        "sizes: model=nano",
        "nano 14-00-00: beta1=0.5",
        "nano 14-00-00: beta1=0.25",
        "verdict",
        "nano",
    }
    groups = [found.label(group[0]) for group in found.groups() if len(group) > 1]
    assert sorted(groups) == ["nano 12-00-00: lr=0.001", "nano 12-00-00: lr=0.003"]
    assert found.varied[:2] == ["optimizer.lr", "seed"] and "data.batch_size" not in found.varied
    assert "name" not in found.keys and {row.asked["model"] for row in found.rows} == {"micro", "nano", "verdict"}


def test_days_are_told_where_two_sweeps_began_at_one_time(make_run: MakeRun) -> None:
    for day, rate in {"2026-11-25": "0.1", "2026-11-26": "0.2"}.items():
        sweep(make_run, f"multirun/{day}/12-00-00", [{"optimizer.lr": rate, "optimizer.beta1": x} for x in ("0", "1")])
    found = report()
    assert found.label(found.rows[0]) == "nano 2026-11-25 12-00-00: beta1=0"


def test_configs_of_one_name_are_told_apart(make_run: MakeRun) -> None:
    for number, key in enumerate("abcdef"):
        make_run(f"{number}", name="one", optimizer={"lr": 0.1, **dict.fromkeys("abcdef", 0), key: 1})
    found = report()
    labels = [found.label(row) for row in found.rows]
    assert len(set(labels)) == 6 and sum("run=" in label for label in labels) == 2  # four settings are told
