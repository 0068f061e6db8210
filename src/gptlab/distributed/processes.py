"""Give the processes that torchrun or srun has started for one command their ranks and a common command line."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

PATIENCE = timedelta(seconds=10)  # wait for the other ranks when one has met a mistake


@dataclass(frozen=True)
class ProcessInfo:
    """The place of this process among `size` that `by` (torchrun or srun) has started, `per_node` on each machine."""

    by: str
    rank: int
    size: int
    per_node: int

    @property
    def nodes(self) -> int:
        return self.size // self.per_node


def place(env: Mapping[str, str] = os.environ) -> ProcessInfo | None:
    """Return the place of this process among others; None if it was started by hand, by Lightning, or alone."""
    if "TORCHELASTIC_RUN_ID" in env:
        return ProcessInfo("torchrun", *(int(env[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))  # not set in a batch script itself
    if tasks > 1:
        return ProcessInfo("srun", int(env["SLURM_PROCID"]), tasks, tasks // int(env["SLURM_STEP_NUM_NODES"]))
    return None


def declared_rank(env: Mapping[str, str] = os.environ) -> int:
    """Return the rank that the environment declares, before Lightning is imported, which looks there too."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(env[name]) for name in names if env.get(name, "").isdecimal()), 0)


def cluster_environment() -> "ClusterEnvironment":
    """Return Lightning's view of the processes.

    Left to guess, Lightning takes a batch script for one of srun's processes, and requeues Slurm jobs with a checkpoint
    of its own.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from gptlab.distributed.loopback import HOST, OneMachine, stay_on_loopback

    here = place()
    if here is None or here.nodes == 1:
        stay_on_loopback()
    if here is None:
        return OneMachine()
    if here.by == "torchrun":
        return TorchElasticEnvironment()
    os.environ["SLURM_NTASKS_PER_NODE"] = str(here.per_node)  # not set by --ntasks, and Lightning insists
    if here.nodes == 1:
        os.environ["MASTER_ADDR"] = HOST
    return SLURMEnvironment(auto_requeue=False)


class ProcessGroup:
    """The processes of one command; a process alone is a group of one.

    Rank 0 reads the command line, which may say `now` or `latest`, and sends the resolved one to the others.
    Lightning's own launcher does the same.
    """

    def __init__(self, here: ProcessInfo | None) -> None:
        self.rank, self.size = (here.rank, here.size) if here else (0, 1)
        self._waited_for = False
        self._store: Any = None
        self._server: Any = None  # kept: its store ends with it
        if here is not None and self.size > 1:
            from torch.distributed.rendezvous import rendezvous

            from gptlab.distributed.loopback import HOST, listen

            environment = cluster_environment()
            os.environ["MASTER_ADDR"] = environment.main_address
            os.environ["MASTER_PORT"] = str(environment.main_port)
            if here.by == "srun" and self.rank == 0 and environment.main_address == HOST:
                self._server = listen(environment.main_port)
            # torch meets here again for its process group: in rank 0 both share one server
            self._store = next(rendezvous("env://", self.rank, self.size))[0]
            self._waited_for = self.rank == 0

    def broadcast(self, argv: list[str]) -> None:
        """Send a command line from rank 0 to the other ranks, which start with it."""
        if self._waited_for:
            self._send({"argv": argv})

    def shutdown(self, code: int) -> None:
        """End the other ranks from rank 0 with an exit code, if they still wait for a command line."""
        if self._waited_for:
            self._send({"code": code})
            self._wait_until_read("command")

    def receive(self) -> tuple[list[str], int | None]:
        """Wait, on a rank other than 0, for the command line, or for the exit code to end with."""
        sent = json.loads(self._get("command"))
        return sent.get("argv", []), sent.get("code")

    def prints(self, mistake: str) -> bool:
        """Return whether this rank prints a mistake: the others print only those that rank 0 has not met."""
        if self._store is None or self._waited_for:
            return True
        from torch.distributed import DistError, DistStoreError

        if self.rank == 0:
            self._store.set("gptlab/mistake", mistake)
            self._wait_until_read("mistake")
            return True
        try:
            self._store.wait(["gptlab/mistake"], PATIENCE)
            return self._get("mistake") != mistake
        except DistStoreError:  # timeout
            return True
        except DistError:  # rank 0 has ended and printed the reason
            return False

    def _send(self, message: dict[str, Any]) -> None:
        self._waited_for = False
        self._store.set("gptlab/command", json.dumps(message))

    def _get(self, name: str) -> str:
        value: str = self._store.get(f"gptlab/{name}").decode()
        self._store.set(f"gptlab/{name}/read/{self.rank}", "")
        return value

    def _wait_until_read(self, name: str) -> None:
        """Wait until all ranks have read: the store of srun's processes ends with rank 0."""
        from torch.distributed import DistError

        with contextlib.suppress(DistError):
            self._store.wait([f"gptlab/{name}/read/{rank}" for rank in range(1, self.size)], PATIENCE)
