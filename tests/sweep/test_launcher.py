"""The launcher's choice of devices for jobs."""

from pathlib import Path

import pytest

from gptlab.distributed.devices import gpus
from gptlab.errors import UserError
from gptlab.sweep.job import Job
from gptlab.sweep.launcher import Machine, threads
from gptlab.training.trainer import TrainerConfig


def jobs(number: int) -> list[Job]:
    return [Job(Path(str(i)), i, []) for i in range(number)]


def visible(env: dict[str, str] | None) -> str | None:
    return None if env is None else env["CUDA_VISIBLE_DEVICES"]


def test_jobs_are_spread_over_gpus_and_wait_for_a_place() -> None:
    machine = Machine(1, ["4", "5"])
    a, b, c, d = jobs(4)
    one, two = TrainerConfig(devices="auto"), TrainerConfig(devices=2)
    assert visible(machine.take(a, one)) == "4"
    assert machine.take(b, two) is None  # needs both
    assert visible(machine.take(c, one)) == "5"
    assert machine.take(d, one) is None
    machine.give_back(a)
    machine.give_back(c)
    assert visible(machine.take(b, two)) == "4,5"


def test_two_jobs_on_a_gpu_but_never_two_ranks() -> None:
    machine = Machine(2, ["0", "1"])
    a, b, c, d = jobs(4)
    one, two = TrainerConfig(devices=1), TrainerConfig(devices="2")
    assert visible(machine.take(a, one)) == "0"
    assert visible(machine.take(b, two)) == "1,0"  # the emptier one first
    assert visible(machine.take(c, one)) == "1"
    assert machine.take(d, one) is None


def test_jobs_without_a_gpu_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8))
    cpu = TrainerConfig(accelerator="cpu", devices=2)
    a, b, c = jobs(3)
    machine = Machine(2, ["0"])
    assert machine.take(a, cpu) == {"OMP_NUM_THREADS": "2"}  # 8 cores, 2 jobs of 2 processes
    assert machine.take(b, cpu) is not None and machine.take(c, cpu) is None
    assert threads(1) == {} and threads(100) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads(2) == {"OMP_NUM_THREADS": "1"}  # what is asked for is a limit


@pytest.mark.parametrize(
    ("trainer", "key"),
    [
        (TrainerConfig(devices=3), "trainer.devices"),
        (TrainerConfig(devices=[0, 1]), "trainer.devices"),
        (TrainerConfig(devices=-1), "trainer.devices"),
        (TrainerConfig(num_nodes=2), "trainer.num_nodes"),
    ],
)
def test_devices_that_a_job_cannot_have(trainer: TrainerConfig, key: str) -> None:
    with pytest.raises(UserError) as error:
        Machine(1, ["0", "1"]).devices(trainer)
    assert error.value.key == key


def test_the_gpus_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    assert gpus() == ["3", "GPU-8f"]
