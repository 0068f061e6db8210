"""The verb `serve`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.app.installed import require_app
from gptlab.decoding.overflow import require_sinks
from gptlab.errors import Stopped, require, require_choice, require_port
from gptlab.evaluation.precision import PRECISIONS
from gptlab.registry import command

if TYPE_CHECKING:
    pass


@dataclass
class ServeConfig:
    """Serve the model of a run to scripts, by the API of OpenAI: completions, and chat where it has a template."""

    run: str = "latest"  # a run directory, one of its checkpoints, a Hugging Face directory, or latest
    name: str | None = None  # of the model in requests; null: that of the directory
    max_batch: int = 32  # texts that are written at once; others wait
    overflow: str = "end"  # beyond the context: end (the text ends) | ring (it goes on, a token is read once)
    sinks: int = 0  # with overflow=ring: first tokens that stay in view; 4 for a model that was trained long
    precision: str = "32-true"  # 32-true | bf16-true | int8 (weights of 8 bits, on a CPU): of the computation
    host: str = "127.0.0.1"  # 0.0.0.0 lets others in, who then need the token as their API key
    port: int = 8000  # 0: any that is free
    token: str | None = None  # null: a new one where others can reach the server, none on this machine alone

    def __post_init__(self) -> None:
        require(self.name != "", "name", "''", "is empty", "leave it out")
        require(self.max_batch >= 1, "max_batch", self.max_batch, "must be at least 1", "try 32")
        require_choice("overflow", self.overflow, ("end", "ring"))
        require_sinks(self.sinks, self.overflow)
        require_choice("precision", self.precision, PRECISIONS)
        require_port(self.port)


@command
def serve(config: ServeConfig) -> None:
    """Serve the model of a run to scripts, by the API of OpenAI.

    It runs until Ctrl-C or SIGTERM: requests then have three seconds to end.
    """
    from gptlab.interop.hub_directory import in_hub_format, run_of

    require_app("serve")
    run = run_of("run", config.run)  # before torch is imported

    from gptlab.app.server import address, listening, token_for
    from gptlab.app.server import serve as serve_until_stopped

    name = config.name or (Path(config.run).expanduser() if in_hub_format(config.run) else run.path).resolve().name
    token = token_for(config.host, config.token)
    with listening(config.host, config.port) as sock, _terminated_as_interrupted():
        from gptlab.app.api.asked import Served
        from gptlab.app.api.errors import refused
        from gptlab.app.api.routes import OPEN, api
        from gptlab.decoding.continuous import ContinuousBatch
        from gptlab.decoding.engine import Engine
        from gptlab.evaluation.chat import template_if_any
        from gptlab.evaluation.model import load_for_decoding

        gpt, tokenizer = load_for_decoding(run, config.precision)
        block_size = gpt.config.block_size
        ring = config.overflow == "ring"
        engine = Engine(ContinuousBatch(gpt, block_size, config.max_batch, tokenizer.n_vocab, ring, config.sinks))
        template, why = template_if_any(run, tokenizer)
        app = api(Served(name, tokenizer, template, block_size, engine, int(time.time())))

        def say(_: str) -> None:
            what = "completions and chat" if template else f"completions, no chat ({why})"
            print(f"{name}: {what}, {block_size} tokens of context, {config.max_batch} texts at once")
            key = "" if token is None else f" api_key={token}"
            print(f"base_url={address(sock)}/v1 model={name}{key} - Ctrl-C ends", flush=True)

        try:
            serve_until_stopped(app, sock, token, say, refused, OPEN, engine.stop)
        finally:
            given_up = engine.close()
            print(f"stopped: {app.state.answered} requests were answered, {given_up} texts given up", flush=True)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, in order."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
