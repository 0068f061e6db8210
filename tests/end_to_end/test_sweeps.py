"""Sweeps as a user types them: jobs in processes, by every launcher, and kills."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptlab.config import compose
from gptlab.training.run import train
from tests.conftest import ROOT, start, tiny_overrides
from tests.forked import gptlab
from tests.waiting import wait_until

pytestmark = pytest.mark.slow
TRAIN = [sys.executable, str(ROOT / "train.py")]


def sweep(*overrides: str, code: int = 0) -> list[dict[str, Any]]:
    return runs_in(gptlab("train", *overrides, "json=true", code=code))


def sweep_by_submitit(*overrides: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the jobs of a sweep in a process of its own: what submitit pickles is found by the main script's name."""
    done = subprocess.run([*TRAIN, *overrides, "json=true"], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return runs_in(done)


def runs_in(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert "overrides" in done.stderr  # the table
    return json.loads(done.stdout)["runs"]


def said(run: dict[str, Any]) -> str:
    return (Path(run["run_dir"]) / "job.log").read_text(errors="replace")


def processes_in(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if f"{folder}/" in line and "gptlab" in line]


def test_a_random_search_gives_both_ranks_one_config(texts: str) -> None:
    """The wrong replica: two ranks of one job that draw different rates. And a rate that ends in NaN."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=47"]
    search += ["hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.launcher.jobs_per_device=2"]
    rates = "optimizer.lr=tag(log, interval(1e-8, 1e30))"
    runs = sweep("-m", *tiny_overrides(texts), *search, "trainer.devices=2", "on_nan=skip", rates, code=1)
    assert all("on 2 x cpu" in said(run) and run["status"] == "finished" for run in runs)
    assert len({run["overrides"][0] for run in runs}) == 2  # two rates were drawn
    finite = [run for run in runs if run["val_loss"] is not None]
    assert 0 < len(finite) < len(runs)
    for run in finite:  # one process, from the saved config: the same figures
        saved = Path(run["run_dir"])
        again = train(compose("train", ["trainer.devices=1", f"run_dir={saved}-again"], run=saved))
        assert again is not None and run["val_loss"] == pytest.approx(again["val_loss"], abs=2e-6)
    best = yaml.safe_load(next(Path("outputs/multirun").rglob("optimization_results.yaml")).read_text())
    assert best["best_value"] == min(run["val_loss"] for run in finite)
    assert sweep(f"resume_sweep={Path(runs[0]['run_dir']).parent}", code=1) == runs  # draws the same, runs nothing


def test_ranks_with_different_configs_refuse(texts: str, tmp_path: Path) -> None:
    """What a sweep in the ranks would do, done by hand."""
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    ranks = [
        subprocess.Popen(
            [*TRAIN, *tiny_overrides(texts), "trainer.devices=2", f"optimizer.lr={lr}", f"run_dir={tmp_path}/run"],
            env=env | {"LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, lr in enumerate((1e-3, 2e-3))
    ]
    for rank in ranks:
        _, err = rank.communicate(timeout=120)
        assert rank.returncode == 2
        assert "error: optimizer.lr=0.002: on rank 1, but 0.001 on rank 0; start all ranks from one saved config" in err


@pytest.mark.parametrize(
    ("order", "more"), [("1,2", ["hydra.launcher.jobs_per_device=2"]), ("2,1", ["hydra/launcher=basic"])]
)
def test_each_job_has_its_own_number_of_processes(texts: str, order: str, more: list[str]) -> None:
    runs = sweep("-m", *tiny_overrides(texts), f"trainer.devices={order}", *more)
    assert [re.findall(r"on (\d) x cpu", said(run)) for run in runs] == [[n] for n in order.split(",")]
    assert runs[0]["val_loss"] == pytest.approx(runs[1]["val_loss"], abs=2e-6)
    names = [Path(run["run_dir"]).name for run in runs]
    assert names == [f"{i}-trainer.devices={n}" for i, n in enumerate(order.split(","))]


def test_a_sweep_goes_on_whatever_becomes_of_a_job(texts: str) -> None:
    """One job has NaN losses, one crashes of them, one is a mistake; the good one comes last."""
    jobs = ["optimizer.lr=3e30,1e-3", "trainer.detect_anomaly=false,true", "hydra.launcher.jobs_per_device=2"]
    nan, crashed, good, _ = sweep("-m", *tiny_overrides(texts), *jobs, "on_nan=skip", code=1)
    assert (nan["status"], nan["val_loss"]) == ("finished", None)
    assert crashed["status"] == "failed" and "nan" in crashed["error"]
    assert "Traceback" in said({"run_dir": crashed["run_dir"]})
    assert good["status"] == "finished" and good["val_loss"] < 6


@pytest.mark.new_processes
def test_submitit_runs_ranks_as_tasks(texts: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    local = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "hydra.launcher.timeout_min=5"]
    good, refused = sweep_by_submitit("-m", *tiny_overrides(texts), *local, "trainer.devices=2,1", code=2)
    assert good["status"] == "finished"
    assert "trainer.devices=1: on 1 node(s), but the job has 2 task(s)" in refused["error"]
    alone = train(compose("train", [*tiny_overrides(texts), "trainer.devices=1", "run_dir=alone"]))
    assert alone is not None and good["val_loss"] == pytest.approx(alone["val_loss"], abs=2e-6)


@pytest.mark.new_processes
def test_a_killed_sweep_goes_on(texts: str) -> None:
    """SIGKILL of the sweep and of a job; nothing is left running; only what is missing is run, to the same end."""
    long = ["budget.steps=60", "checkpoint.every_n_steps=5", "trainer.val_every_n_steps=20", "seed=1,2"]
    process = subprocess.Popen([*TRAIN, "-m", *tiny_overrides(texts), *long], stdout=subprocess.DEVNULL)
    folders = Path("outputs/multirun")
    try:
        wait_until(lambda: list(folders.glob("*/*/1-seed=2/checkpoints/last.ckpt")), 120, 0.1)
    finally:
        process.kill()
        process.wait()
    folder = next(folders.glob("*/*"))
    job = next(path for path in Path("/proc").glob("[0-9]*") if _group_of(path, folder.resolve()))
    os.killpg(int(job.name), signal.SIGKILL)
    wait_until(lambda: not processes_in(folder.resolve()), 40, 0.1)
    status = json.loads((folder / "1-seed=2/summary.json").read_text())["status"]
    assert status in ("running", "stopped")  # the kill came before the job had seen that its sweep is gone, or after
    untouched = (folder / "0-seed=1/summary.json").stat().st_mtime_ns
    runs = sweep(f"resume_sweep={folder}")
    assert [run["status"] for run in runs] == ["finished", "finished"]
    assert (folder / "0-seed=1/summary.json").stat().st_mtime_ns == untouched
    assert "going on after step" in said(runs[1])
    alone = train(compose("train", [*tiny_overrides(texts), *long[:3], "seed=2", "run_dir=alone"]))
    assert alone is not None and runs[1]["val_loss"] == alone["val_loss"]


def _group_of(process: Path, folder: Path) -> bool:
    """Return whether this is the first process of a job in the sweep `folder`."""
    try:
        return f"{folder}/" in (process / "cmdline").read_text() and os.getpgid(int(process.name)) == int(process.name)
    except OSError:
        return False


@pytest.mark.new_processes
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_stopped_leaves_no_process(texts: str, how: signal.Signals) -> None:
    more = ["trainer.devices=2", "budget.steps=100000", "seed=1,2", "checkpoint.every_n_steps=5"]
    command = [*TRAIN, "-m", *tiny_overrides(texts), *more]
    process = start(command)
    folders = Path("outputs/multirun")
    wait_until(lambda: list(folders.glob("*/*/0-seed=1/checkpoints/last.ckpt")), 120, 0.1)
    folder = next(folders.glob("*/*")).resolve()
    assert len(processes_in(folder)) == 2
    process.send_signal(how)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    if how == signal.SIGKILL:
        wait_until(lambda: not processes_in(folder), 40, 0.1)
    assert not processes_in(folder)
    assert json.loads((folder / "0-seed=1/summary.json").read_text())["status"] == "stopped"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "stopped" in out and "waiting" in out and "resume_sweep=" in out
