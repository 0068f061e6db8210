"""A sweep's command line, budget and exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.errors import MissingConfigException

from gptlab import registry
from gptlab.commands.command import _Run
from gptlab.commands.main import main
from gptlab.commands.mistakes import EXTRAS, explain
from gptlab.distributed.processes import ProcessGroup
from gptlab.errors import UserError
from gptlab.sweep.sweep import Sweep, exit_code
from tests.conftest import tiny_overrides

FINE = {"status": "finished", "search_metric": "val/loss", "val_loss": 2.0}


def test_only_a_multirun_is_a_sweep() -> None:
    assert Sweep.of(["seed=1"]) is None
    assert Sweep.of(["-m", "seed=1,2", "--cfg", "job"]) is None
    sweep = Sweep.of(["-m", "seed=1,2", "model=nano"])
    assert sweep is not None and sweep.path.parts[:2] == ("outputs", "multirun")
    assert sweep.argv[-1] == "hydra.job.config.override_dirname.exclude_keys=[model]"
    twice = Sweep.of(["-m", "seed=5", "model=nano", "seed=1,2"])  # the last one counts
    assert twice is not None and twice.argv[-1] == sweep.argv[-1]


@pytest.mark.parametrize("argv", [["seed=1,2", "-m"], ["-m", "-cd", "a=b", "seed=1,2", "--config-name", "c"], ["-m"]])
def test_what_is_added_stays_beside_the_overrides(argv: list[str]) -> None:
    sweep = Sweep.of(argv)
    assert sweep is not None
    where = sweep.argv.index("seed=1,2") + 1 if "seed=1,2" in argv else 1
    assert sweep.argv[where].startswith("hydra.sweep.dir=")
    assert [arg for arg in sweep.argv if not arg.startswith("hydra.")] == argv


def test_a_sweep_goes_on_with_its_own_command_line() -> None:
    first = Sweep.of(["-m", "seed=1,2", "hydra.sweep.dir=here"])
    assert first is not None and first.path == Path("here")
    with first.running():
        (first.path / "0").mkdir()
        (first.path / "0/job.json").write_text(json.dumps({"job": 0, "overrides": ["seed=1"]}))
        with pytest.raises(UserError, match="is running"), first.running():
            pass
    again = Sweep.of(["resume_sweep=here", "hydra.launcher.jobs_per_device=2", "json=true"])
    assert again is not None
    assert again.argv[:4] == ["-m", "seed=1,2", "hydra.launcher.jobs_per_device=2", "json=true"]
    assert again.path == Path("here") and "hydra.sweep.dir='here'" in again.argv
    for argv, key in ((["resume_sweep=here", "seed=3"], "seed"), (["-m", "hydra.sweep.dir=here"], "hydra.sweep.dir")):
        with pytest.raises(UserError) as error:
            Sweep.of(argv)
        assert error.value.key == key
    with pytest.raises(UserError, match="is not the directory of a sweep"):
        Sweep.of(["resume_sweep=elsewhere"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["model=nano,huge"], "error: model=huge: no such option"),
        (["resume_sweep=none"], "error: resume_sweep=none: is not the directory of a sweep"),
        (["seed=1", "hydra.launcher.jobs_per_device=0"], "error: hydra.launcher.jobs_per_device=0: must be"),
        (
            ["seed=1,2", "search_metric=joy"],
            "error: search_metric=joy: no such metric of the task; choose one of train/loss, val/loss",
        ),
    ],
)
def test_a_mistake_in_all_of_a_sweep(
    given: list[str], said: str, texts: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "-m", *tiny_overrides(texts), *given] if "resume" not in given[0] else ["train", *given])
    out, err = capfd.readouterr()
    assert code == 2 and (said in err or said.removeprefix("error: ") in out)
    assert not list(Path().rglob("summary.json"))


@pytest.mark.slow
def test_a_launcher_that_breaks_leaves_a_table(
    texts: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("the cluster is on fire")

    monkeypatch.setattr("gptlab.sweep.launcher.run_all", broken)
    assert main(["train", "-m", *tiny_overrides(texts), "seed=1,2", "json=true"]) == 1
    out, err = capfd.readouterr()
    answer = json.loads(out)
    assert [run["status"] for run in answer["runs"]] == ["waiting", "waiting"]
    assert answer["error"] == "RuntimeError: the cluster is on fire"
    assert "held fixed: budget.steps=6" in err


@pytest.mark.slow
def test_a_mistake_leaves_nothing_behind(texts: str) -> None:
    assert main(["train", "-m", *tiny_overrides(texts), "model=nano,huge"]) == 2
    assert not list(Path("outputs").rglob("*"))


@pytest.mark.parametrize(("option", "extra"), list(EXTRAS.items()))
def test_what_is_not_installed(option: str, extra: str) -> None:
    error = MissingConfigException("", missing_cfg_file=option.replace("=", "/"), options=["basic"])
    assert explain(error, []) == f"{option}: is not installed; pip install 'gptlab[{extra}]'"


def test_the_exit_code_tells() -> None:
    assert exit_code([FINE, FINE]) == 0
    assert exit_code([FINE, {**FINE, "val_loss": None}]) == 1
    assert exit_code([FINE, {**FINE, "val_loss": None, "status": "pruned"}]) == 0
    for status in ("failed", "stopped", "waiting", "running"):
        assert exit_code([FINE, {"status": status}]) == 1
    assert exit_code([{"status": "failed"}, {"status": "refused"}]) == 2


@pytest.mark.parametrize(
    ("budgets", "said"),
    [
        ([{"tokens": 1e6, "steps": None}] * 2, "budget.tokens=1,000,000.0"),
        ([{"flops": 1e15}, {"flops": 2e15}], "no budget, the jobs differ in it"),
        ([{"steps": 5}, {"tokens": 5}], "no budget, the jobs differ in it"),
        ([], "nothing, no job has begun"),
        ([{"steps": None}], "budget.steps=900"),
        ([{"minutes": 2, "seconds_per_step": s} for s in (0.25, 0.5)], "budget.minutes=2"),
        ([{"steps": "many"}, [3], {"steps": 7}], "budget.steps=7"),  # two damaged files
    ],
)
def test_what_is_held_fixed(budgets: list[Any], said: str) -> None:
    for i, budget in enumerate(budgets):
        folder = Path(f"sweep/{i}")
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({"job": i, "overrides": []}))
        (folder / "config.yaml").write_text(yaml.safe_dump({"budget": budget}))
    assert Sweep(Path("sweep"), []).budget() == said


@pytest.mark.parametrize(
    "summary",
    [
        {"status": "finished", "val_loss": "low", "steps": "x", "seconds": [1]},
        {"status": ["finished"], "val_loss": float("inf"), "steps": 3},
        {"status": "finished", "val_loss": True, "steps": 10**400, "seconds": None},
    ],
)
def test_what_a_damaged_summary_says_is_no_figure(
    summary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sweep/0-seed=1"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"job": 0, "overrides": ["seed=1"]}))
    (folder / "summary.json").write_text(json.dumps(summary))
    sweep = Sweep(Path("sweep"), ["-m", "seed=1,2"])
    results = sweep.results()
    sweep.report(results)
    assert exit_code(results) == 1 and "seed=1" in capfd.readouterr().out


def test_a_search_is_not_missing_what_has_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A repetition of a plain sweep runs it again; of a search it does not, so that its best can be confirmed."""
    folder = tmp_path / "sweep/0-seed=1"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps({"job": 0, "overrides": ["seed=1"], "error": "out of memory"}))
    for more, missing in {(): True, ("hydra/sweeper=search",): False}.items():
        sweep = Sweep(tmp_path / "sweep", ["-m", "seed=1,2", "confirm=3", *more])
        sweep.report(sweep.results())
        assert sweep.confirmed() is None
        said = capsys.readouterr().out
        assert ("to run what is missing" in said) is missing
        assert ("confirm=3: not yet, 1 jobs have not finished" in said) is missing


def test_a_damaged_job_is_a_mistake_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where the sweep itself has ended well: its table is made of the jobs' files."""
    folder = tmp_path / "sweep/0-seed=1"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text('{"job": 0}')
    run = _Run(registry.find_command("train"), ["gptlab"], ["-m", "seed=1,2"], ProcessGroup(None))
    answer = run.answer(Sweep(tmp_path / "sweep", ["-m", "seed=1,2"]))
    why = f"resume_sweep={folder}/job.json: does not say which job it is"
    assert run.code == 2 and answer["error"].startswith(why)
    assert capfd.readouterr().err.startswith(f"error: {why}")


def test_sweeps_of_one_second_have_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = set()
    for _ in range(2):
        sweep = Sweep.of(["-m", "seed=1,2"])
        assert sweep is not None and not sweep.path.exists()
        sweep.path.mkdir(parents=True)
        found.add(sweep.path)
    assert len(found) == 2
