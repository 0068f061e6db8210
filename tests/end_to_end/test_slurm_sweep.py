"""A sweep over a Slurm of two nodes, both of them this machine."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptlab.config import compose
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.end_to_end.test_sweeps import sweep

pytestmark = pytest.mark.slow
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """\
ClusterName=sweeps
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=n1,n2 Default=YES
"""


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = os.environ["PATH"] + ":/usr/sbin"
    if missing := [name for name in NEEDED if not shutil.which(name, path=path)]:
        pytest.skip(f"no Slurm here: {', '.join(missing)} not found")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().partition(".")[0]
    folder.chmod(0o700)
    (folder / "slurm.conf").write_text(
        CONF.format(folder=folder, host=host, user=getpass.getuser(), ports=_free_ports(3))
    )
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    for key, value in {"PATH": path, "SLURM_CONF": f"{folder}/slurm.conf"}.items():
        monkeypatch.setenv(key, value)
    for key, value in {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(key, value)
    files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    munged = [f"--{key}={folder}/{name}" for key, name in files.items()]
    daemons = []
    try:
        daemons.append(_start(folder, "munged", "--foreground", "--force", f"--log-file={folder}/munged.log", *munged))
        deadline = time.monotonic() + 30
        while not (folder / "munge.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        daemons.append(_start(folder, "slurmctld", "-D"))
        daemons += [_start(folder, "slurmd", "-D", "-N", name) for name in ("n1", "n2")]
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        while subprocess.run(idle, capture_output=True, text=True, check=False).stdout.split() != ["2"]:
            if time.monotonic() > deadline:
                pytest.skip(f"Slurm does not start here: {(folder / 'daemons.log').read_text()[-500:]}")
            time.sleep(0.5)
        yield
    finally:
        subprocess.run(["scancel", f"--user={getpass.getuser()}"], capture_output=True, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


def test_the_ranks_of_a_job_on_two_nodes(slurm: None, texts: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    cluster = ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=5"]
    one, two = sweep("-m", *tiny_overrides(texts), *cluster, "trainer.num_nodes=2", "trainer.devices=1", "seed=1,2")
    alone = train(compose("train", [*tiny_overrides(texts), "seed=2", "run_dir=alone"]))
    assert alone is not None and two["val_loss"] == pytest.approx(alone["val_loss"], abs=2e-6)
    assert one["val_loss"] != two["val_loss"]
    logs = [path.read_text() for path in Path("outputs/multirun").rglob("*_0_log.out")]
    assert len(logs) == 2 and all("on 2 x cpu" in log for log in logs)


def _start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with (folder / "daemons.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
