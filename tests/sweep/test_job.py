"""A job's directory: what is written, kept, refused."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.config_file import record
from gptlab.sweep.job import Job, jobs_in, score_text
from gptlab.training.config import TrainConfig


@pytest.fixture
def config(tiny: Callable[..., TrainConfig], tmp_path: Path) -> TrainConfig:
    return tiny(f"run_dir={tmp_path}/sweep/0-seed=1", "seed=1")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "sweep/0-seed=1", 0, ["seed=1"])


def summary(job: Job, **values: object) -> None:
    (job.path / "summary.json").write_text(json.dumps(values))


def test_the_saved_config_composes_to_what_was_asked(job: Job, config: TrainConfig) -> None:
    job.prepare(config)
    assert record(compose("train", run=job.path)) == record(config)
    assert job.result()["status"] == "waiting"
    assert [(j.path, j.num, j.overrides) for j in jobs_in(job.path.parent)] == [(job.path, 0, ["seed=1"])]


def test_what_got_nowhere_begins_anew(job: Job, config: TrainConfig) -> None:
    job.prepare(config)
    summary(job, status="running")
    (job.path / "metrics.csv").write_text("old")
    job.prepare(config)
    assert not (job.path / "summary.json").exists() and not (job.path / "metrics.csv").exists()


def test_what_got_somewhere_is_kept(job: Job, config: TrainConfig) -> None:
    job.prepare(config)
    summary(job, status="stopped")
    (job.path / "checkpoints").mkdir()
    (job.path / "checkpoints/last.ckpt").write_text("")
    job.prepare(config)
    assert job.checkpoint is not None and (job.path / "summary.json").exists()


def test_what_is_not_ours_is_never_touched(job: Job, config: TrainConfig) -> None:
    job.path.mkdir(parents=True)
    summary(job, status="finished")
    for touch in (lambda: job.prepare(config), lambda: job.refuse("a mistake")):
        with pytest.raises(UserError, match="there is another run"):
            touch()
    assert [path.name for path in job.path.iterdir()] == ["summary.json"]


def test_another_job_of_the_same_name(job: Job, config: TrainConfig) -> None:
    job.prepare(config)
    with pytest.raises(UserError, match="there is another run"):
        Job(job.path, 0, ["seed=2"]).prepare(config)


@pytest.mark.parametrize(("given", "key"), [("resume=latest", "resume"), ("run_dir=elsewhere", "run_dir")])
def test_what_a_job_cannot_be_asked(
    job: Job, tiny: Callable[..., TrainConfig], given: str, key: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        job.prepare(tiny(f"run_dir={tmp_path}/sweep/0-seed=1", given))
    assert error.value.key == key


def test_the_search_metric_of_a_job(job: Job, config: TrainConfig) -> None:
    job.prepare(config)
    assert job.search_metric.name == "val/loss" and job.search_value() == math.inf
    summary(job, status="finished", val_loss=2.5, val_perplexity=None)
    assert job.search_value() == 2.5 and score_text(job.result()) == "2.500"
    summary(job, status="failed", val_loss=2.5)
    assert job.search_value() == math.inf
    job.prepare(dataclasses.replace(config, search_metric="val/perplexity"))
    summary(job, status="finished", val_loss=2.5, val_perplexity=None)  # NaN
    assert job.search_value() == math.inf and score_text(job.result()) == "not finite"


@pytest.mark.parametrize(
    ("code", "stopped", "status", "error"),
    [
        (0, False, "finished", None),
        (1, False, "failed", "RuntimeError: oh"),
        (-9, False, "failed", "killed by SIGKILL"),
        (2, False, "refused", "data.files=x: no such file; give one"),
        (1, True, "stopped", None),
    ],
)
def test_how_a_job_ended(
    job: Job, config: TrainConfig, code: int, stopped: bool, status: str, error: str | None
) -> None:
    job.prepare(config)
    said = "error: data.files=x: no such file; give one" if code == 2 else "Traceback\nRuntimeError: oh"
    (job.path / "job.log").write_text(said + "\n\n")
    summary(job, status="finished" if code == 0 else "running")
    job.stopped = stopped
    job.ended(code)
    assert (job.result()["status"], job.result().get("error")) == (status, error)
