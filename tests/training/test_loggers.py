"""W&B without a network, MLflow in a local database, and what is said where they are missing."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab import registry
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.config.logger_list import each_logger
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.dashboards import require_wandb_login
from gptlab.training.run import train
from tests.conftest import tiny_overrides

Tiny = Callable[..., TrainConfig]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line(
    package: str, texts: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gptlab.training.loggers.find_spec", lambda name: None)
    assert main(["train", *tiny_overrides(texts), "run_dir=run", f"logger={package}"]) == 2
    line = f"error: logger.{package}=true: is not installed; pip install 'gptlab[{package}]'\n"
    assert capfd.readouterr().err == line and not Path("run").exists()


@pytest.fixture
def logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights & Biases is installed, and nobody is logged in."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("gptlab.training.loggers.find_spec", lambda name: True)


def test_wandb_without_a_login_is_one_line(logged_out: None, texts: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *tiny_overrides(texts), "run_dir=run", "logger=wandb"]) == 2
    why = "nobody is logged in to Weights & Biases; wandb login, or set WANDB_MODE=offline"
    assert capfd.readouterr().err == f"error: logger.wandb=true: {why}\n" and not Path("run").exists()


def test_a_login_is_found_where_wandb_looks_for_it(
    logged_out: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError):
        require_wandb_login()
    for name, value in {"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            require_wandb_login()
    (tmp_path / "wandb_config").mkdir()
    (tmp_path / "wandb_config/settings").write_text("[default]\nmode = disabled\n")
    require_wandb_login()
    (tmp_path / "wandb_config/settings").write_text("[default]\nbase_url = https://w.example.org:8080\n")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    with pytest.raises(UserError):
        require_wandb_login()
    (tmp_path / "netrc").write_text("machine w.example.org:8080 login user password secret\n")
    require_wandb_login()


def test_an_mlflow_server_that_does_not_answer_is_one_line(
    texts: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gptlab.training.loggers.find_spec", lambda name: True)
    ask = ["run_dir=run", "logger=mlflow", "logger.mlflow_uri=http://127.0.0.1:9"]
    assert main(["train", *tiny_overrides(texts), *ask]) == 2
    line = "error: logger.mlflow_uri=http://127.0.0.1:9: does not answer"
    assert capfd.readouterr().err.startswith(line) and not Path("run").exists()


@pytest.mark.slow
def test_mlflow_goes_on_with_its_run(tiny: Tiny, tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    ask = [
        "logger=mlflow",
        "logger.project=words",
        f"logger.mlflow_uri=sqlite:///{tmp_path}/all.db",
        "optimizer.lr=0.0125",
    ]
    train(tiny(*ask, "schedule=constant"))
    more = [f"run_dir={tmp_path}/run", f"resume={tmp_path}/run", "budget.steps=9"]
    train(compose("train", more, run=tmp_path / "run"))
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/all.db")
    (run,) = client.search_runs([client.get_experiment_by_name("words").experiment_id])
    assert run.data.params["optimizer.lr"] == "0.0125" and run.info.run_name == "run-nano"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/loss")] == [3, 6, 9]


@pytest.mark.slow
def test_wandb_goes_on_with_its_run(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the directory has another name by then; a branch is a run of its own."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    asked: list[tuple[str, str]] = []
    init = wandb.init

    def watched(**how: Any) -> Any:
        run = init(**how)
        asked.append((run.id, how["resume"]))
        return run

    monkeypatch.setattr(wandb, "init", watched)
    train(tiny("logger=wandb", "schedule=constant"))
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    for run_dir, steps in ((moved, 9), (tmp_path / "branch", 12)):
        more = [f"run_dir={run_dir}", f"resume={moved}", f"budget.steps={steps}"]
        train(compose("train", more, run=moved))
    (first, how), (second, again), (branch, _) = asked
    assert first == second == (moved / "wandb_run_id").read_text() and how == again == "allow"
    assert branch == (tmp_path / "branch/wandb_run_id").read_text() != first
    assert {path.name.rpartition("-")[2] for path in (moved / "wandb").glob("offline-run-*")} == {first}


@pytest.mark.slow
def test_wandb_has_a_run_for_each(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    logged: dict[str, list[dict[str, Any]]] = {}
    log, asked = wandb.Run.log, {}

    def watched(self: Any, data: dict[str, Any], *args: Any, **more: Any) -> None:
        logged.setdefault(self.id, []).append(dict(data))
        asked[self.id] = (self.project, self.name, self.config["seed"])
        log(self, data, *args, **more)

    monkeypatch.setattr(wandb.Run, "log", watched)
    for seed in (1, 2):
        train(tiny("logger=wandb", "logger.project=words", f"seed={seed}", f"run_dir={tmp_path}/{seed}"))
    assert sorted(asked.values()) == [("words", "1-nano", 1), ("words", "2-nano", 2)]
    for rows in logged.values():
        assert [row["trainer/global_step"] for row in rows if "val/loss" in row] == [3, 6]
    assert wandb.run is None
    assert len(list((tmp_path / "1/wandb").glob("offline-run-*"))) == 1
    assert json.loads((tmp_path / "1/summary.json").read_text())["status"] == "finished"


def test_trackio_goes_on_with_its_run(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and its continuation have one name; each is given the settings, the metrics by step, and its end."""
    told: list[tuple[Any, ...]] = []

    class Run:
        def log(self, metrics: dict[str, float], step: int | None = None) -> None:
            told.append(("log", step, "val/loss" in metrics))

        def finish(self) -> None:
            told.append(("finish",))

    def init(project: str, name: str, config: dict[str, Any], resume: str, **how: bool) -> Run:
        told.append(("init", project, name, resume, config.get("optimizer.lr")))
        return Run()

    fake = types.ModuleType("trackio")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", fake)
    monkeypatch.setattr("gptlab.training.loggers.find_spec", lambda name: True)
    train(tiny("logger=trackio", "logger.project=words", "optimizer.lr=0.0125", "schedule=constant"))
    more = [f"run_dir={tmp_path}/run", f"resume={tmp_path}/run", "budget.steps=9"]
    train(compose("train", more, run=tmp_path / "run"))
    begun = [each for each in told if each[0] == "init"]
    assert len(begun) == 2 and begun[0] == begun[1] and begun[0][1] == "words" and begun[0][3:] == ("allow", 0.0125)
    assert [each[1] for each in told if each[0] == "log" and each[2]] == [3, 6, 9]
    assert told[-1] == ("finish",) and told.count(("finish",)) == 2


def test_trackio_is_not_installed(
    texts: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlab.training.loggers.find_spec", lambda name: None)
    assert main(["train", *tiny_overrides(texts), "run_dir=run", "logger=trackio"]) == 2
    assert capfd.readouterr().err.startswith(
        "error: logger.trackio=true: is not installed; pip install 'gptlab[trackio]'"
    )


@pytest.mark.parametrize(
    ("listed", "on"),
    [
        ("[tensorboard,wandb]", {"tensorboard", "csv", "wandb"}),
        ("['mlflow', trackio]", {"csv", "mlflow", "trackio"}),
        ("[csv]", {"csv"}),
        ("[tensorboard]", {"tensorboard", "csv"}),
    ],
)
def test_a_list_of_loggers_has_these_alone(listed: str, on: set[str]) -> None:
    switches = ("tensorboard", "csv", "wandb", "mlflow", "trackio")
    found = compose("train", [f"logger={listed}", "logger.project=words"]).logger
    assert {name for name in switches if getattr(found, name)} == on and found.project == "words"


def test_a_list_with_the_logger_of_a_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._OPTIONS["logger"], "neptune", registry.options("decoder")["greedy"])
    found = each_logger(["seed=1", "logger=[wandb,neptune]", "logger.project=a"])
    assert found[0] == "seed=1" and found[-2:] == ["+logger.others.neptune.option=neptune", "logger.project=a"]
    assert {"logger=tensorboard", "logger.wandb=true", "logger.tensorboard=false"} <= set(found)


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ("[]", "names no logger; give e.g. logger=[tensorboard,wandb], or logger=none"),
        ("[tensorboard,comet]", "comet is no logger; choose some of tensorboard, csv, wandb, mlflow, trackio"),
        ("[none,csv]", "none is no logger; choose some of tensorboard, csv, wandb, mlflow, trackio"),
        ("[csv,]", "(nothing) is no logger; choose some of tensorboard, csv, wandb, mlflow, trackio"),
    ],
)
@pytest.mark.parametrize("sweep", [[], ["-m", "seed=1,2"]])
def test_a_list_with_a_mistake(listed: str, why: str, sweep: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *sweep, f"logger={listed}"]) == 2
    assert capfd.readouterr().err == f"error: logger={listed}: {why}\n" and not Path("outputs").exists()
