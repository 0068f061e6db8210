"""Processes on one machine meet over loopback: no other machine can reach what they listen on."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed.rendezvous import rendezvous

from gptlab.distributed.loopback import listen
from gptlab.distributed.processes import ProcessGroup, ProcessInfo
from tests.conftest import ROOT, tiny_overrides
from tests.slurm import Slurm, free_ports

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net/tcp")


def listening(pid: int, port: int | None = None) -> list[str]:
    """Return the addresses, in hexadecimal, on which a process listens, on one port or any; as `ss -ltn` has them."""
    sockets = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(each))
        except OSError:
            continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in sockets:
                address, _, at = local.partition(":")
                found += [address] if port in (None, int(at, 16)) else []
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def test_torch_s_group_finds_the_store_that_listens_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    before = listening(os.getpid())
    store = listen()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    again = next(rendezvous("env://", 0, 1))[0]
    again.set("a", "b")
    assert store.get("a") == b"b"
    new = listening(os.getpid())
    assert len(new) == len(before) + 1 and set(new) - set(before) <= LOOPBACK


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_store_of_srun_s_processes(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks of one machine meet on loopback, whatever the machine is called; those of two cannot."""
    machines = socket.gethostname() if nodes == 1 else f"{socket.gethostname()},other"
    port = free_ports(1)[0]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}
    more = {"SLURM_NODELIST": machines, "SLURM_NTASKS_PER_NODE": "0", "MASTER_PORT": str(port)}
    for key, value in {**step, **more}.items():
        monkeypatch.setenv(key, value)
    for key in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):  # put back afterwards: each of them is set
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: ProcessGroup(ProcessInfo("srun", rank, 2, 2 // nodes)), (0, 1))
    found = listening(os.getpid(), port)
    assert found and (set(found) <= LOOPBACK) == (nodes == 1)
    assert os.environ["MASTER_ADDR"] == ("127.0.0.1" if nodes == 1 else socket.gethostname())
    assert ("GLOO_SOCKET_IFNAME" in os.environ) == (nodes == 1)
    first.broadcast(["seed=1"])
    assert second.receive() == (["seed=1"], None)


@pytest.mark.slow
@pytest.mark.slurm
def test_two_tasks_of_srun_listen_nowhere_else(texts: str, slurm: Slurm) -> None:
    """Not even at the address by which Slurm knows the machine."""
    ask = [*tiny_overrides(texts), "trainer.devices=auto", "budget.steps=100000", "logger=none", "run_dir=run"]
    script = Path("task.sh")  # srun sends its processes no signal before their end, and they are not its children
    script.write_text('#!/bin/bash\necho $$ > pid-$SLURM_PROCID\nexec "$@"\n')
    script.chmod(0o755)
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        *ask,
        "trainer.val_every_n_steps=100000",
        "checkpoint.every_n_steps=5",
    ]
    env = {
        key: value
        for key, value in (os.environ | slurm.env).items()
        if key not in ("MASTER_ADDR", "GLOO_SOCKET_IFNAME")
    }
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(["srun", "--nodes=1", "--ntasks=2", str(script.absolute()), *command], env=env, **quiet)  # type: ignore[call-overload]
    try:
        _wait_for_a_checkpoint(process)
        pids = [int(Path(f"pid-{rank}").read_text()) for rank in (0, 1)]
        found = [address for pid in pids for address in listening(pid)]
        assert found and set(found) <= LOOPBACK
    finally:
        slurm.call("scancel", "--full", "--user=root")
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--standalone"], ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]])
def test_no_flag_of_torchrun_binds_its_own_store(how: list[str]) -> None:
    """docs/trust.md says so: a torch that fails this test has learned it, and the page can say how."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", *how, "--local-addr=127.0.0.1"]
    Path("wait.py").write_text("import pathlib, time; pathlib.Path('begun').touch(); time.sleep(600)")
    process = subprocess.Popen([*command, "wait.py"], start_new_session=True)
    try:
        begun = time.monotonic()
        while not Path("begun").exists() and time.monotonic() < begun + 120:
            time.sleep(0.1)
        assert set(listening(process.pid)) - LOOPBACK
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_a_checkpoint(process: subprocess.Popen[bytes]) -> None:
    begun = time.monotonic()
    while not any(Path("run").glob("checkpoints/*.ckpt")) and time.monotonic() < begun + 120:
        assert process.poll() is None
        time.sleep(0.2)


@pytest.mark.slow
def test_a_run_on_two_devices_listens_nowhere_else(texts: str) -> None:
    ask = [*tiny_overrides(texts), "trainer.devices=2", "budget.steps=100000", "logger=none", "run_dir=run"]
    command = [sys.executable, str(ROOT / "train.py"), *ask, "trainer.val_every_n_steps=100000"]
    quiet = {"stdout": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "checkpoint.every_n_steps=5"], start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        _wait_for_a_checkpoint(process)
        members = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        ours = []
        for pid in members:
            try:
                if os.getpgid(pid) == process.pid:
                    ours.append(pid)
            except OSError:
                continue
        found = [address for pid in ours for address in listening(pid)]
        assert len(ours) >= 2 and found and set(found) <= LOOPBACK
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
