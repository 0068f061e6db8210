"""The verb `app`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gptlab.app.installed import require_app
from gptlab.errors import printable, require, require_port
from gptlab.registry import command


@dataclass
class AppConfig:
    """Play with the models of runs in a web page: write, see what else was likely, and where attention goes."""

    run: str | list[str] = "latest"  # a run, a checkpoint, a Hugging Face directory, or latest; several: [RUN,RUN]
    host: str = "127.0.0.1"  # 0.0.0.0 lets others in, who then need the token
    port: int = 8765  # 0: any that is free
    token: str | None = None  # null: a new one where others can reach the page, none on this machine alone
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.runs) and all(self.runs), "run", self.run, "is empty", "give a run, or [RUN,RUN]")
        require_port(self.port)

    @property
    def runs(self) -> list[str]:
        """The runs, by their names."""
        return self.run if isinstance(self.run, list) else [self.run]


@command
def app(config: AppConfig) -> dict[str, Any]:
    """Play with the models of runs in a web page: write, see what else was likely, and where attention goes.

    Serves the page until Ctrl-C. Returns {"runs"}: the names that the runs have there.
    """
    from gptlab.interop.hub_directory import run_of
    from gptlab.runs.reader import expand

    require_app("app")

    from gptlab.app.served import load_served, named_runs
    from gptlab.app.server import listening, serve, token_for

    runs = named_runs([run_of("run", name) for name in expand(config.runs)])  # before torch is imported
    with listening(config.host, config.port) as sock:
        from gptlab.app.playground import playground_app

        app = playground_app(load_served(runs))
        serve(app, sock, token_for(config.host, config.token), lambda address: _say(address, list(runs)))
    return {"runs": list(runs)}


def _say(address: str, names: list[str]) -> None:
    print(f"{', '.join(map(printable, names))}\nopen {address} - Ctrl-C ends", flush=True)
