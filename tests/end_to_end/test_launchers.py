"""Two processes, whoever starts them, do the work of one: the same losses and weights, one run directory, one voice."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.config import compose
from gptlab.files import followed
from gptlab.training.run import train
from tests.conftest import ROOT, tiny_overrides, working_in, write_texts
from tests.slurm import Slurm, free_ports

pytestmark = pytest.mark.slow
TRAIN = [sys.executable, str(ROOT / "train.py")]
CLI = ["-m", "gptlab", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}
Done = subprocess.CompletedProcess[str]


def run(command: list[str], code: int = 0) -> Done:
    done = subprocess.run(command, env=os.environ | LOOPBACK, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def lightning(overrides: list[str]) -> str:
    done = run([*TRAIN, *overrides, "trainer.devices=2"])
    assert "on 2 x cpu" in done.stderr and done.stderr.count("parameters:") == 1
    return done.stdout


def torchrun(overrides: list[str]) -> str:
    return run([*TORCHRUN, *TRAIN[1:], *overrides, "trainer.devices=auto"]).stdout


def torchrun_on_two_nodes(overrides: list[str]) -> str:
    """Start one agent per node, both on this machine."""
    where = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={free_ports(1)[0]}"]
    agents = [
        subprocess.Popen(
            [*TORCHRUN[:3], *where, f"--node_rank={node}", *CLI, *overrides, "trainer.num_nodes=2"],
            env=os.environ | LOOPBACK,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in (0, 1)
    ]
    said = [agent.communicate(timeout=900) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    return said[0][0] + said[1][0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where one process has trained."""
    folder = tmp_path_factory.mktemp("alone")
    with working_in(folder):
        ask = [*tiny_overrides(write_texts(folder / "texts")), "model.dropout=0.0", f"run_dir={folder}/run"]
        train(compose("train", ask))
    return folder / "run"


def losses(path: Path) -> list[float]:
    with (path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [float(row[key]) for row in rows for key in ("train/loss", "val/loss") if row[key]]
    assert len(found) == 5  # of training at 2, 4 and 6, of validation at 3 and 6
    return found


def require_the_same(alone: Path, printed: str) -> None:
    """Require one JSON object on standard output, and one run directory equal to that of one process."""
    summary = json.loads(printed)
    assert summary["steps"] == 6 and summary["status"] == "finished"
    (path,) = (folder for day in Path("outputs").glob("2*") for folder in day.iterdir())
    assert path.resolve() == Path(summary["run_dir"]) == followed(Path("outputs/latest")).resolve()
    one_process = json.loads((alone / "summary.json").read_text())
    for key in ("train_loss", "val_loss", "val_bits_per_byte"):
        assert summary[key] == pytest.approx(one_process[key], abs=2e-6)
    assert summary["tokens"] == one_process["tokens"]
    off = max(abs(a - b) for a, b in zip(losses(alone), losses(path), strict=True))
    one, two = (torch.cat([p.flatten() for p in gptlab.load(d)[0].parameters()]) for d in (alone, path))
    off_weights = (one - two).abs().max().item()
    print(f"max |difference| of losses {off:.1e} nats, of weights {off_weights:.1e}")
    assert off < 2e-6 and off_weights < 1e-4


@pytest.mark.parametrize(
    "start",
    [lightning, pytest.param(torchrun, marks=pytest.mark.new_processes), torchrun_on_two_nodes],
    ids=lambda start: start.__name__,
)
def test_two_processes_do_what_one_does(start: Callable[[list[str]], str], alone: Path, texts: str) -> None:
    require_the_same(alone, start([*tiny_overrides(texts), "json=true"]))


@pytest.mark.slurm
def test_two_nodes_of_slurm_do_what_one_process_does(alone: Path, texts: str, slurm: Slurm) -> None:
    many = ["trainer.num_nodes=2", "json=true"]
    done = slurm.srun("--nodes=2", "--ntasks-per-node=1", *TRAIN, *tiny_overrides(texts), *many)
    assert done.returncode == 0, done.stderr
    require_the_same(alone, done.stdout)


@pytest.mark.slurm
def test_a_batch_script_starts_its_processes_by_lightning(alone: Path, texts: str, slurm: Slurm) -> None:
    """Without srun it has one process, though Slurm's variables tell of a job; Lightning would take that for a rank."""
    script = Path("job.sh")
    command = " ".join([*TRAIN, *tiny_overrides(texts)]).replace("the cat", "'the cat'")
    script.write_text(f"#!/bin/bash\n{command} trainer.devices=2 json=true\n")
    slurm.wait(slurm.sbatch(script, "--ntasks-per-node=1", "--cpus-per-task=2", "--output=out", "--error=err"))
    require_the_same(alone, Path("out").read_text())


def test_torchrun_goes_on_with_a_run(texts: str) -> None:
    """`latest` is what it was when rank 0 read it."""
    first = train(compose("train", tiny_overrides(texts)))
    assert first is not None
    second = json.loads(torchrun(["resume=latest", "budget.steps=8", "json=true"]))
    assert (second["steps"], second["run_dir"]) == (8, first["run_dir"])


MISTAKES = {
    "model.n_head=7": "error: model.n_head=7: does not divide n_embd=16",  # seen by rank 0 alone
    "data.files=[none.txt]": "error: data.files=none.txt: no such file",  # by both
    "run_dir=old": "error: run_dir=old: holds a run already",  # by rank 0, which would have made it for the others
}


def require_said_once(mistake: str, done: Done, code: int) -> None:
    assert done.returncode == code, done.stderr
    assert done.stderr.count(MISTAKES[mistake]) == 1
    assert MISTAKES[mistake] in "error: " + json.loads(done.stdout)["error"]
    assert not list(Path().glob("outputs/*"))


@pytest.fixture
def old_run() -> None:
    Path("old").mkdir()
    Path("old/summary.json").write_text("{}")


@pytest.mark.usefixtures("old_run")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_once_under_torchrun(mistake: str, texts: str) -> None:
    """The exit code is torchrun's."""
    done = run([*TORCHRUN, *TRAIN[1:], *tiny_overrides(texts), "trainer.devices=2", mistake, "json=true"], code=1)
    require_said_once(mistake, done, code=1)


@pytest.mark.slurm
@pytest.mark.usefixtures("old_run")
def test_a_mistake_is_said_once_under_srun(some: Callable[..., list[str]], texts: str, slurm: Slurm) -> None:
    for mistake in some(list(MISTAKES), every=3):
        given = [*tiny_overrides(texts), "trainer.devices=1", "trainer.num_nodes=2", mistake, "json=true"]
        require_said_once(mistake, slurm.srun("--nodes=2", *TRAIN, *given), code=2)


def test_a_late_rank_has_the_run_directory_of_rank_0(texts: str) -> None:
    """Hydra's `now` is another second for it."""
    Path("late.py").write_text(
        "import os, sys, time\n"
        "import gptlab.training.run\n"
        "from gptlab.commands.main import run\n"
        "time.sleep(2 * int(os.environ['RANK']))\n"
        "def train(config):\n"
        "    open('rank' + os.environ['RANK'], 'w').write(config.run_dir)\n"
        "if __name__ == '__main__':\n"
        "    gptlab.training.run.train = train\n"
        "    sys.exit(run('train', sys.argv[1:], sys.argv[:1]))\n"
    )
    run([*TORCHRUN, "late.py", *tiny_overrides(texts)])
    assert Path("rank0").read_text() == Path("rank1").read_text()
    assert not list(Path("outputs").glob("*/*"))  # nobody has trained: nothing is left


def test_a_sweep_has_no_place_among_several_processes(texts: str) -> None:
    done = run([*TORCHRUN, *CLI, "-m", *tiny_overrides(texts), "optimizer.lr=1e-3"], code=1)
    assert (
        done.stderr.count("error: hydra.mode=MULTIRUN: a sweep starts its jobs itself, and 2 processes are started")
        == 1
    )


@pytest.mark.slurm
def test_a_job_that_requeues_itself(texts: str, slurm: Slurm, some: Callable[..., list[int]]) -> None:
    """After each of Slurm's warnings the job saves, goes back into the queue, and goes on in the same run."""
    script, ask = Path("job.sh"), [*tiny_overrides(texts), "budget.steps=400", "trainer.val_every_n_steps=100"]
    command = " ".join([*TRAIN, *ask, "trainer.num_nodes=2", "resume=auto"]).replace("the cat", "'the cat'")
    script.write_text(f"#!/bin/bash\nsrun --kill-on-bad-exit=1 {command}\n")
    nodes = ["--nodes=2", "--ntasks-per-node=1", "--requeue", "--open-mode=append", "--output=out", "--error=out"]
    job = slurm.sbatch(script, *nodes)
    warnings = some((10, 60), every=2)
    for rows in warnings:
        deadline = time.monotonic() + 200
        while not any(path.read_text().count("\n") > rows for path in Path().glob("outputs/*/*/metrics.csv")):
            assert time.monotonic() < deadline, Path("out").read_text()
            time.sleep(0.1)
        slurm.call("scancel", "--signal=USR1", job)
        while Path("out").read_text().count("stopped at step") <= warnings.index(rows):
            assert time.monotonic() < deadline, Path("out").read_text()
            time.sleep(0.1)
    slurm.wait(job)
    (path,) = (folder for day in Path("outputs").glob("2*") for folder in day.iterdir())
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 400)
    with (path / "metrics.csv").open(newline="") as file:
        logged = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert logged == list(range(2, 401, 2))
