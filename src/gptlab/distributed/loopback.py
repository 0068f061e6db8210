"""Let the processes of a run on one machine meet over its loopback interface, which no other machine reaches.

torch's store asks for no password, and listens on every interface unless it is given a socket. That of torchrun belongs
to torchrun.
"""

import os
import socket

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]

HOST = "127.0.0.1"


def stay_on_loopback() -> None:
    """Let gloo and NCCL exchange their addresses over the loopback interface, unless the environment names another."""
    names = {name for _, name in socket.if_nameindex()}
    if loopback := next((name for name in ("lo", "lo0") if name in names), None):
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)


def listen(port: int = 0) -> TCPStore:
    """Start the store of this process on the loopback interface, at a free port if none is given.

    torch's process group finds it by its port, and starts none of its own.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((HOST, port))
        server.listen(socket.SOMAXCONN)
        chosen = server.getsockname()[1]
        return TCPStore(
            HOST, chosen, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=server.detach()
        )


class OneMachine(LightningEnvironment):
    """Lightning's view of the processes that it starts on this machine."""

    store: TCPStore | None = None

    @property
    def main_port(self) -> int:
        """The port of the store, which the first process starts."""
        if self._main_port == -1 and self.local_rank() == 0 and "MASTER_PORT" not in os.environ:
            self.store = listen()
            self._main_port = self.store.port
        return super().main_port
