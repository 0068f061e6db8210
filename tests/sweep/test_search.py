"""Searches by Optuna 5; `.ci/run` has an environment with it, as the older one of `hydra/sweeper=optuna` excludes it.

Most of them launch no job: what becomes of one is written into its directory.
"""

import importlib.metadata
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.metrics import metrics
from gptlab.sweep import launcher
from gptlab.sweep.job import Job
from gptlab.sweep.search import Search, SearchConfig, consecutive, import_optuna, objectives
from gptlab.sweep.search_space import Parameter, space_of
from gptlab.training.run import train
from tests.conftest import tiny_overrides

Result = dict[str, Any]
LR = "lr=tag(log,interval(1e-4,1e-1))"
LEARN = [LR, "n=1,2,4", "d=range(2,12,3)"]


def version() -> int:
    try:
        return int(importlib.metadata.version("optuna").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


needs_optuna = pytest.mark.skipif(version() < 5, reason="Optuna 5 is not installed: gptlab[search]")


class Jobs:
    """A launcher that writes what `of` makes of a job's settings into its directory, unless it has ended before.

    It is killed before job `killed_at`, once; `ran` has the number of each job that it ran, and `launched` of each that
    it was asked for.
    """

    def __init__(self, of: Callable[[dict[str, str]], Result], killed_at: int | None = None) -> None:
        self.of, self.killed_at = of, killed_at
        self.ran: list[int] = []
        self.launched: list[int] = []

    def __call__(self, jobs: Sequence[Sequence[str]], first: int) -> None:
        for number, overrides in enumerate(jobs, first):
            if number == self.killed_at:
                self.killed_at = None
                raise KeyboardInterrupt
            self.launched.append(number)
            folder = Path("sweep") / f"{number}-job"
            if (folder / "summary.json").exists():
                continue
            self.ran.append(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "job.json").write_text(json.dumps({"job": number, "overrides": list(overrides)}))
            result = self.of(dict(each.split("=") for each in overrides))
            if "refused" in result:
                (folder / "job.json").write_text(json.dumps({"job": number, "overrides": list(overrides), **result}))
            else:
                (folder / "summary.json").write_text(json.dumps(result))


def quality(settings: dict[str, str]) -> Result:
    """A run that has finished; the best rate is 0.01, and n=4 the best size."""
    loss = (math.log10(float(settings["lr"])) + 2) ** 2 + 1 / float(settings["n"])
    return {"status": "finished", "val_loss": loss, "parameters": int(settings["n"])}


def a_search(launch: Jobs, argv: Sequence[str] = LEARN, names: Sequence[str] = ("val/loss",), **fields: Any) -> Search:
    Path("sweep").mkdir(exist_ok=True)
    config = SearchConfig(**{"n_trials": 8, "n_jobs": 2, **fields})
    space = space_of(OverridesParser.create().parse_overrides(list(argv)))
    return Search(config, space, Path("sweep"), objectives(names), launch, at_once=1)


def told(search: Search) -> list[tuple[int, str, list[float] | None, dict[str, Any]]]:
    return [(each.number, each.state.name, each.values, each.params) for each in search.study.trials]


@needs_optuna
@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = LEARN if sampler != "grid" else ["lr=1e-3,1e-2", "n=1,2,4"]
    outcomes = []
    for killed_at in (None, 0, 3):
        (tmp_path / str(killed_at)).mkdir()
        monkeypatch.chdir(tmp_path / str(killed_at))
        jobs = Jobs(quality, killed_at)
        try:
            a_search(jobs, argv, sampler=sampler, n_trials=6).run()
        except KeyboardInterrupt:
            a_search(jobs, argv, sampler=sampler, n_trials=6).run()
        outcomes.append(told(a_search(jobs, argv, sampler=sampler, n_trials=6)))
        assert sorted(jobs.ran) == list(range(6))  # none is lost, and none is run twice
    assert outcomes[1:] == outcomes[:1] * 2
    points = {json.dumps(params, sort_keys=True) for *_, params in outcomes[0]}
    assert len(points) == 6
    assert {state for _, state, *_ in outcomes[0]} == {"COMPLETE"}


@needs_optuna
@pytest.mark.parametrize("drawn", [0, 1])
def test_a_kill_while_a_trial_is_drawn(drawn: int) -> None:
    """What it had drawn stays; nothing is lost."""
    jobs = Jobs(quality)
    search = a_search(jobs, n_trials=2)
    trial = search.study.ask()
    for parameter in search.space[:drawn]:
        assert isinstance(parameter, Parameter)
        parameter.suggest(trial)
    a_search(jobs, n_trials=2).run()
    assert jobs.ran == [0, 1]
    found = told(search)
    assert [state for _, state, *_ in found] == ["COMPLETE"] * 2 and found[0][3].items() >= trial.params.items()


@needs_optuna
def test_tpe_learns() -> None:
    """Its last trials are better than chance's, by far."""
    means = {}
    for sampler in ("tpe", "random"):
        search = a_search(Jobs(quality), sampler=sampler, n_trials=30, n_jobs=5, storage="sqlite:///:memory:")
        search.run()
        means[sampler] = sum(each.value for each in search.study.trials[-10:]) / 10
        Path("sweep").rename(sampler)
    assert means["tpe"] < 0.75 * means["random"], means


@needs_optuna
def test_what_becomes_of_trials(capsys: pytest.CaptureFixture[str]) -> None:
    fates = iter(
        [
            {"status": "finished", "val_loss": None},  # it diverged
            {"status": "failed"},
            {"refused": "n=1: is no good; try 2"},
            {"status": "finished", "val_loss": 2.5},
            {"status": "stopped", "val_loss": 2.0},  # goes on when the sweep does
        ]
    )
    jobs = Jobs(lambda settings: next(fates))
    search = a_search(jobs, n_trials=5, n_jobs=1)
    search.run()
    found = [(state, values) for _, state, values, _ in told(search)]
    assert found == [
        ("COMPLETE", [float("inf")]),
        ("FAIL", None),
        ("FAIL", None),
        ("COMPLETE", [2.5]),
        ("RUNNING", None),
    ]
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_value"] == 2.5 and best["best_params"] == search.study.trials[3].params
    assert "the best of 5 trials: job 3, val/loss 2.5000: lr=" in capsys.readouterr().out
    jobs.launched.clear()
    a_search(jobs, n_trials=6, n_jobs=1, seed=3)
    Path("sweep/4-job/summary.json").write_text(json.dumps({"status": "finished", "val_loss": 1.5}))
    more = a_search(jobs, n_trials=5, n_jobs=1)
    more.run()
    assert jobs.launched == [4] and more.study.best_trial.number == 4


@needs_optuna
def test_a_search_of_mistakes_ends_early() -> None:
    jobs = Jobs(lambda settings: {"refused": "no=1: no such key"})
    a_search(jobs, n_trials=8, n_jobs=2).run()
    assert jobs.ran == [0, 1]


@needs_optuna
def test_several_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    """The trials that are said to be not beaten are those of a comparison of all pairs."""
    search = a_search(Jobs(quality), names=["val/loss", "parameters"])
    search.run()
    values = {number: found for number, _, found, _ in told(search)}
    unbeaten = {
        i
        for i, (loss, size) in values.items()
        if not any((a <= loss and b <= size) and (a, b) != (loss, size) for a, b in values.values())
    }
    solutions = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())["solutions"]
    assert sorted(each["values"] for each in solutions) == sorted(values[i] for i in unbeaten)
    out = capsys.readouterr().out
    assert {int(line.partition("job ")[2].partition(",")[0]) for line in out.splitlines()} == unbeaten


@needs_optuna
def test_the_direction_is_that_of_the_metric() -> None:
    search = a_search(
        Jobs(lambda settings: {"status": "finished", "val_accuracy": float(settings["n"]) / 8}), names=["val/accuracy"]
    )
    search.run()
    assert search.study.best_value == max(each.value for each in search.study.trials) == 0.5
    ways = {
        each.name: each.higher for each in objectives([each.name for each in metrics() if each.summary and each.better])
    }
    assert ways["val/accuracy"] and not ways["val/loss"]
    with pytest.raises(UserError, match=r"^hydra.sweeper.metrics=val/joy: no figure of a run"):
        objectives(["val/joy"])


@needs_optuna
def test_a_grid_is_complete_and_in_order() -> None:
    search = a_search(
        Jobs(lambda s: {"status": "finished", "val_loss": 1.0}),
        ["a=1,2", "f=7", "b=range(3,9,2)"],
        sampler="grid",
        n_trials=None,
    )
    search.run()
    assert [(each.params["a"], each.params["b"]) for each in search.study.trials] == [
        (a, b) for a in ("1", "2") for b in (3, 5, 7)
    ]


@needs_optuna
def test_a_database_of_ones_own() -> None:
    url = "sqlite:///shared.db"
    a_search(Jobs(quality), storage=url, study_name="mine").run()
    assert not Path("sweep/study.db").exists()
    Path("sweep").rename("first")
    with pytest.raises(
        UserError, match=r"^hydra.sweeper.study_name=mine: has the trials of another sweep, .+sweep; give"
    ):
        Path("elsewhere").mkdir()
        config = SearchConfig(storage=url, study_name="mine")
        Search(
            config,
            space_of(OverridesParser.create().parse_overrides(LEARN)),
            Path("elsewhere"),
            objectives(["val/loss"]),
            Jobs(quality),
            1,
        )
    for broken in ("nonsense", "sqlite:///no/such/folder/x.db"):
        with pytest.raises(UserError, match=rf"^hydra.sweeper.storage={broken}: cannot be used \("):
            a_search(Jobs(quality), storage=broken)
    Path("sweep/study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"^hydra.sweeper.storage=sqlite:///sweep/study.db: cannot be used \("):
        a_search(Jobs(quality))


@needs_optuna
def test_nothing_to_search() -> None:
    with pytest.raises(UserError, match=r"^hydra/sweeper=search: no key has several values; give a key values"):
        a_search(Jobs(quality), ["lr=1"])


def written(folder: Path, steps: Sequence[int], values: Sequence[float]) -> Job:
    """Return a running job that has validated at some steps, with rows of its log between them."""
    folder.mkdir(exist_ok=True, parents=True)
    rows = "".join(f"{step - 1},2.0,\n{step},,{value}\n" for step, value in zip(steps, values, strict=True))
    (folder / "metrics.csv").write_text(f"step,train/loss,val/loss\n{rows}")
    (folder / "summary.json").write_text(json.dumps({"status": "running", "planned_steps": 900}))
    return Job(folder, int(folder.name.partition("-")[0]), [])


@needs_optuna
def test_trials_are_compared_at_equal_steps() -> None:
    """At each rung the best third goes on, the first one always; rows of the log are no validations."""
    search = a_search(Jobs(quality), pruner="asha", n_trials=8, min_steps=100)
    prune, folders = search.pruning, [Path(f"sweep/{i}-job") for i in range(5)]
    assert prune is not None
    for _ in range(5):
        search._draw()
    assert not prune(Job(folders[0], 0, []))  # it has written nothing yet
    assert not prune(written(folders[0], [0, 100], [9.0, 3.0]))
    assert search.study.user_attrs["rungs"] == [100, 900]
    assert prune(written(folders[1], [100], [3.5]))
    assert not prune(written(folders[2], [100, 200], [2.0, 4.0]))  # 200 is no rung
    assert not prune(written(folders[0], [100, 200, 300], [3.0, 2.9, 1.5]))
    assert prune(written(folders[2], [100, 200, 300], [2.0, 4.0, 1.6]))
    assert prune(written(folders[3], [100, 200], [math.nan, 1.0]))
    again = a_search(Jobs(quality), pruner="asha", n_trials=8, min_steps=100)
    trial = again._again(again.study.trials[2])[0]
    assert again.pruning is not None and trial == 2
    assert not again.pruning(written(folders[2], [100, 200, 300], [2.0, 4.0, 1.6]))  # the study knows these
    assert again.pruning(written(folders[2], [100, 200, 300, 400], [2.0, 4.0, 1.6, 0.1]))  # doomed before the kill


@needs_optuna
def test_the_first_comparison_is_after_an_eighth_of_a_run() -> None:
    search = a_search(Jobs(quality), pruner="asha", n_trials=8)
    for _ in range(2):
        search._draw()
    assert search.pruning is not None
    assert not search.pruning(written(Path("sweep/0-job"), [50, 100, 150], [3.0, 2.9, 2.0]))
    assert search.study.user_attrs["rungs"] == [113, 900]
    assert not search.pruning(written(Path("sweep/1-job"), [50, 100], [4.0, 4.0]))
    assert search.pruning(written(Path("sweep/1-job"), [50, 100, 150], [4.0, 4.0, 2.1]))


@needs_optuna
def test_a_pruned_grid_is_in_random_order() -> None:
    """All points, once each, in an order of the seed's; the first ones go on unopposed."""
    grid = ["lr=1,2,3,4", "n=1,2"]
    orders = []
    for more in ({}, {"pruner": "asha"}, {"pruner": "asha"}, {"pruner": "asha", "seed": 1}):
        search = a_search(Jobs(quality), grid, sampler="grid", storage="sqlite:///:memory:", **more)
        orders.append([tuple(search._draw()[1]) for _ in range(8)])
    plain, pruned, again, other = orders
    assert plain == sorted(plain) == sorted(pruned) == sorted(other) and pruned == again
    assert len({tuple(each) for each in orders}) == 3


@needs_optuna
def test_hyperband_has_several_first_steps() -> None:
    search = a_search(Jobs(quality), pruner="hyperband", n_trials=30, reduction_factor=3, storage="sqlite:///:memory:")
    assert search.pruning is not None
    kept = set()
    for number in range(12):
        search._draw()
        worse = written(Path(f"sweep/{number}-job"), [200], [3.0 + number])
        if not search.pruning(worse):
            kept.add(number)
    assert 1 < len(kept) < 12  # ASHA would keep the first one alone


def searched(curve: Callable[[dict[str, str]], list[float]], **fields: Any) -> tuple[float, float, float]:
    """Return the best score that a pruned search of synthetic runs has found, the true best, and its share of steps.

    `curve` gives the losses of a run at its validations, which are 100 steps apart.
    """
    steps, whole, finals = 0, 0, list[float]()
    search = a_search(Jobs(quality), [LR, "n=1,2,4"], n_trials=16, n_jobs=1, storage="sqlite:///:memory:", **fields)
    prune = search.pruning
    assert prune is not None

    def launch(jobs: Sequence[Sequence[str]], number: int) -> None:
        nonlocal steps, whole
        folder, losses, ran = Path("sweep") / f"{number}-job", curve(dict(each.split("=") for each in jobs[0])), 0
        finals.append(losses[-1])
        for ran in range(1, len(losses) + 1):
            if prune(written(folder, range(100, 100 * ran + 1, 100), losses[:ran])):
                break
        steps, whole = steps + ran, whole + len(losses)
        (folder / "job.json").write_text(json.dumps({"job": number, "overrides": list(jobs[0])}))
        summary = {"status": "finished" if ran == len(losses) else "pruned", "val_loss": losses[ran - 1]}
        (folder / "summary.json").write_text(json.dumps(summary))

    search.launch = launch
    search.run()
    assert len(finals) == 16 and {state for _, state, *_ in told(search)} == {"COMPLETE", "PRUNED"}
    shutil.rmtree("sweep")
    return search.study.best_value, min(finals), steps / whole


@needs_optuna
@pytest.mark.parametrize(("pruner", "most"), [("asha", 0.4), ("hyperband", 0.8)])
def test_a_pruned_search_finds_the_winner_for_less(pruner: str, most: float) -> None:
    """Searches of 16 synthetic runs, on average: the same winner within noise, by ASHA for 40% of the steps or less.

    The loss of a run falls as a power of the step to what its settings allow; validations, 16 of them, deviate by 0.01.
    Hyperband prunes part of the trials later, in case that early losses mislead.
    """
    noise, random = 0.01, np.random.default_rng(5)

    def curve(settings: dict[str, str]) -> list[float]:
        floor = 1.5 + 0.15 * (math.log10(float(settings["lr"])) + 2) ** 2 + 0.1 * (settings["n"] == "1")
        return [floor + 8 * step**-0.5 + noise * random.normal() for step in range(100, 1601, 100)]

    found = [searched(curve, pruner=pruner, sampler="random", seed=seed) for seed in range(3)]
    best, true, shares = map(statistics.fmean, zip(*found, strict=True))
    assert best - true <= 2 * noise and shares <= most, found


@needs_optuna
@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["val/loss", "parameters"], "compares by one metric, not by val/loss, parameters"),
        (["seconds"], "seconds is known only at the end"),
    ],
)
def test_what_cannot_be_pruned(names: list[str], why: str) -> None:
    with pytest.raises(UserError, match=rf"^hydra.sweeper.pruner=asha: {why}; leave it out, or give one metric"):
        a_search(Jobs(quality), names=names, pruner="asha")


@needs_optuna
@pytest.mark.slow
def test_a_run_that_is_pruned(texts: str) -> None:
    """A job in a process of its own ends by itself, whole, long before its budget; its run can be gone on with."""
    lr = "optimizer.lr=1e-2,1e-9"
    ask = [*tiny_overrides(texts), "hydra/sweeper=search", "hydra.sweeper.sampler=grid", "hydra.sweeper.pruner=asha"]
    ask += ["hydra.sweep.dir=sweep", lr, "budget.steps=400", "trainer.val_every_n_steps=20", "json=true"]
    command = [sys.executable, "-m", "gptlab", "train", "-m", *ask]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    good, bad = json.loads(done.stdout)["runs"]
    assert (good["status"], bad["status"]) == ("finished", "pruned") and good["steps"] == 400
    assert 20 <= bad["steps"] < 400 and bad["val_loss"] > good["val_loss"]
    assert "to run what is missing" not in done.stderr and "pruned" in done.stderr
    summary = json.loads((Path(bad["run_dir"]) / "summary.json").read_text())
    assert summary["status"] == "pruned"
    saved = torch.load(Path(bad["run_dir"]) / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == bad["steps"]
    again = subprocess.run(
        [*command[:4], "resume_sweep=sweep", "json=true"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0 and json.loads(again.stdout)["runs"] == [good, bad], again.stderr


@needs_optuna
@pytest.mark.slow
def test_a_search_of_runs(texts: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, its answer, and its repetition; a mistake leaves nothing behind."""

    def run_all(waiting: list[Any], machine: Any, watch: Any) -> None:
        for job, _ in waiting:  # here, which saves the time of a process
            train(compose("train", [f"run_dir='{job.path.resolve()}'"], run=job.path))

    monkeypatch.setattr(launcher, "run_all", run_all)
    ask = ["train", "-m", "hydra/sweeper=search", *tiny_overrides(texts), "hydra.sweep.dir=sweep", "json=true"]
    assert main([*ask, "model.n_head=3,7"]) == 2
    assert "does not divide n_embd=16" in capfd.readouterr().err and not Path("sweep").exists()
    lr = "optimizer.lr=tag(log,interval(1e-4,1e-2))"
    assert main([*ask, lr, "hydra/launcher=basic", "hydra.sweeper.pruner=asha"]) == 2
    why = "hydra.sweeper.pruner=asha: stops running jobs, which only gptlab's own launcher does; leave it out"
    assert why in capfd.readouterr().err and not Path("sweep").exists()
    assert main([*ask, lr, "hydra.sweeper.n_trials=2", "hydra.sweeper.seed=1"]) == 0
    runs = json.loads(capfd.readouterr().out)["runs"]
    assert [run["status"] for run in runs] == ["finished", "finished"]
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_value"] == min(run["val_loss"] for run in runs)
    assert main(["train", "resume_sweep=sweep", "hydra.sweeper.n_trials=3", "json=true"]) == 0
    out, err = capfd.readouterr()
    more = json.loads(out)["runs"]
    assert more[:2] == runs and len(more) == 3 and "the best of 3 trials" in err


@pytest.mark.parametrize("installed", [None, "4.9.0", "2.10.1"])
def test_optuna_is_missing_or_too_old(installed: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", found)
    why = (
        "needs Optuna, which is not installed" if installed is None else f"needs Optuna 5, and {installed} is installed"
    )
    with pytest.raises(UserError, match=rf"^hydra/sweeper=search: {why}; .+ pip install 'gptlab\[search\]'$"):
        import_optuna()


@pytest.mark.parametrize(
    "field",
    [
        ("sampler", "best"),
        ("pruner", "worst"),
        ("min_steps", 0),
        ("reduction_factor", 1),
        ("n_trials", 0),
        ("n_trials", "x"),
        ("n_trials", True),
        ("n_jobs", 0),
        ("seed", -1),
        ("seed", "x"),
    ],
)
def test_mistakes_in_the_settings(field: tuple[str, Any]) -> None:
    key, value = field
    with pytest.raises(UserError, match=f"^hydra.sweeper.{key}={value}: "):
        SearchConfig(**{key: value})


def test_numbers_without_gaps() -> None:
    assert consecutive([5, 0, 1, 3, 4]) == [[0, 1], [3, 4, 5]] and consecutive([]) == []
