from datetime import timedelta
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

from gptlab.distributed.loopback import OneMachine
from gptlab.distributed.processes import ProcessGroup, ProcessInfo, cluster_environment, place
from gptlab.errors import UserError
from gptlab.training.trainer import TrainerConfig

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
STEP = {**BATCH, "SLURM_PROCID": "5", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("env", "here", "environment"),
    [
        ({}, None, OneMachine),
        (TORCHRUN, ProcessInfo("torchrun", 5, 8, 4), TorchElasticEnvironment),
        (BATCH, None, OneMachine),
        (STEP, ProcessInfo("srun", 5, 8, 4), SLURMEnvironment),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, None, OneMachine),  # an interactive shell, say
        (
            {**STEP, **TORCHRUN},
            ProcessInfo("torchrun", 5, 8, 4),
            TorchElasticEnvironment,
        ),  # one torchrun a node, by srun
    ],
)
def test_who_has_started_this_process(
    env: dict[str, str], here: ProcessInfo | None, environment: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "0")  # put back afterwards
    assert place() == here
    if here:
        assert here.rank == _get_rank() and here.nodes == 2  # Lightning's own reading
    found = cluster_environment()
    assert type(found) is environment
    if isinstance(found, SLURMEnvironment):
        assert not found.auto_requeue


def test_several_machines_need_a_launcher() -> None:
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2: .*; start them by torchrun or srun$"):
        TrainerConfig(num_nodes=2).build(1, [], Path())  # type: ignore[arg-type]


@pytest.mark.parametrize(("devices", "nodes"), [(3, 2), (4, 1)])
def test_what_is_started_is_what_is_asked_for(devices: int, nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # put back afterwards: a Trainer sets it for the whole process
    asked = TrainerConfig(accelerator="cpu", devices=devices, num_nodes=nodes)
    said = rf"^trainer\.devices={devices}: .*; give trainer\.devices=4 trainer\.num_nodes=2$"
    with pytest.raises(UserError, match=said):
        asked.build(1, [], Path())  # type: ignore[arg-type]


def two_ranks(monkeypatch: pytest.MonkeyPatch) -> list[ProcessGroup]:
    """Two ranks in one process, with one store."""
    from torch.distributed import HashStore

    store = HashStore()
    ranks = [ProcessGroup(None), ProcessGroup(None)]
    for rank, each in enumerate(ranks):
        each.rank, each.size, each._store, each._waited_for = rank, 2, store, rank == 0
    monkeypatch.setattr("gptlab.distributed.processes.PATIENCE", timedelta(milliseconds=50))
    return ranks


def test_rank_0_sends_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_ranks(monkeypatch)
    first.broadcast(["a=b"])
    first.shutdown(2)  # too late
    assert second.receive() == (["a=b"], None)


def test_rank_0_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_ranks(monkeypatch)
    assert first.prints("model=huge: ...")  # at once: nobody else has begun
    first.shutdown(2)
    assert second.receive() == ([], 2)


def test_who_prints_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_ranks(monkeypatch)
    first.broadcast([])
    assert second.prints("no such file")  # rank 0 has found it
    assert first.prints("the disk is full")
    assert not second.prints("the disk is full")
    assert second.prints("no such file")
