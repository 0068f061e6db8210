"""Processes on one machine meet over loopback: no other machine can reach what they listen on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.rendezvous import rendezvous

from gptlab.distributed.loopback import listen
from tests.conftest import ROOT, tiny_overrides

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net/tcp")


def listening(pid: int) -> list[str]:
    """Return the addresses, in hexadecimal, on which a process listens; `ss -ltn` reads them from here too."""
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
                found.append(local.partition(":")[0])
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


@pytest.mark.slow
def test_a_run_on_two_devices_listens_nowhere_else(texts: str) -> None:
    ask = [*tiny_overrides(texts), "trainer.devices=2", "budget.steps=100000", "logger=none", "run_dir=run"]
    command = [sys.executable, str(ROOT / "train.py"), *ask, "trainer.val_every_n_steps=100000"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "checkpoint.every_n_steps=5"], start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        begun = time.monotonic()
        while not any(Path("run").glob("checkpoints/*.ckpt")) and time.monotonic() < begun + 120:
            assert process.poll() is None
            time.sleep(0.2)
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
