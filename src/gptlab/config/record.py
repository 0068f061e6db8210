"""The config of a run as it is written down."""

import dataclasses
from typing import Any

from omegaconf import MISSING

from gptlab.training.config import TrainConfig


def record(config: TrainConfig) -> dict[str, Any]:
    """A run's config.yaml: every value, and in `defaults` the class of every part, so that it composes again.

    `gptlab train --config-dir RUN --config-name config` repeats the run.
    """
    values = {**dataclasses.asdict(config), "resume": None}
    del values["run_dir"]
    parts = {f.name: type(getattr(config, f.name)).__name__ for f in dataclasses.fields(config) if f.default is MISSING}
    parts |= {f"data.parts.{name}": type(part).__name__ for name, part in getattr(config.data, "parts", {}).items()}
    schemas = [f"/schema/{kind}@{name}" for name, kind in parts.items() if name != "run_dir"]
    return {"defaults": ["/schema/TrainConfig@_here_", *schemas, "/door/train", "_self_"], **values}
