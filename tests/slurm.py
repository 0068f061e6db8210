"""A Slurm of two nodes on this machine, for as long as the tests run."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
FirstJobId={first_job}
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A Slurm installation: its commands; processes that they start have `env`. A requeued job restarts after about six
    seconds.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def call(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Any of Slurm's commands."""
        return subprocess.run(
            command,
            env=os.environ | self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def srun(self, *args: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return self.call("srun", *args, timeout=timeout)

    def sbatch(self, script: Path, *args: str) -> str:
        """Submit a script and return the job's number."""
        done = self.call("sbatch", "--parsable", *args, str(script))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str, state: str = "COMPLETED", seconds: float = 300) -> None:
        """Until a job is in this state."""
        deadline = time.monotonic() + seconds
        while f"JobState={state}" not in (shown := self.call("scontrol", "show", "job", job).stdout):
            assert time.monotonic() < deadline and (state == "FAILED" or "JobState=FAILED" not in shown), shown
            time.sleep(0.2)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    daemons = ["munged", "slurmctld", "slurmd"]
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if missing := [name for name in [*daemons, "srun"] if not shutil.which(name, path=path)]:
        pytest.skip(f"no Slurm here: {', '.join(missing)} not installed (apt-get install slurmctld slurmd munge)")
    if os.geteuid():
        pytest.skip("only root can start a Slurm")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        munge, conf = folder / "munge.key", folder / "slurm.conf"
        munge.write_bytes(os.urandom(64))
        munge.chmod(0o400)
        (folder / "state").mkdir()
        # Lightning's port follows from the number of the job: two clusters must not begin with the same one
        conf.write_text(CONF.format(folder=folder, ports=free_ports(3), first_job=random.randrange(1, 9000)))
        cluster = Slurm({"PATH": path, "SLURM_CONF": str(conf), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        commands = [
            ["munged", "--foreground", "--force", *(f"--{key}={folder}/munge.{end}" for key, end in files.items())],
            ["slurmctld", "-D"],
            *(["slurmd", "-D", "-N", node] for node in ("node1", "node2")),
        ]
        log = stack.enter_context((folder / "out").open("w"))
        for command in commands:
            process = subprocess.Popen(command, env=os.environ | cluster.env, stdout=log, stderr=log)
            stack.callback(_end, process)
        stack.callback(cluster.call, "scancel", "--full", "--user=root")
        deadline = time.monotonic() + 60
        while cluster.call("sinfo", "--noheader", "--Node", "--format=%T").stdout.split() != ["idle", "idle"]:
            assert time.monotonic() < deadline, (folder / "out").read_text()
            time.sleep(0.2)
        yield cluster


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
