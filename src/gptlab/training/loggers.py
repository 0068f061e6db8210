"""Choose the loggers and monitors of a run; Lightning's loggers are imported when built."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.errors import require
from gptlab.files import read_bounded, write_atomically
from gptlab.registry import option
from gptlab.training.named_parts import checked, found, made, require_arguments

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger


CALLBACKS, LOGGERS = "lightning.pytorch.callbacks", "lightning.pytorch.loggers"


@option("logger", "tensorboard")
@dataclass
class Loggers:
    """The loggers: TensorBoard events and metrics.csv in the run directory, Weights & Biases, MLflow, trackio."""

    tensorboard: bool = True  # TensorBoard events in the run directory
    csv: bool = True  # metrics.csv in the run directory
    wandb: bool = False  # Weights & Biases (needs gptlab[wandb])
    mlflow: bool = False  # MLflow (needs gptlab[mlflow])
    trackio: bool = False  # trackio, without a network (needs gptlab[trackio])
    project: str = "gptlab"  # the project of W&B and trackio, the experiment of MLflow
    mlflow_uri: str | None = None  # null: MLFLOW_TRACKING_URI, or the file outputs/mlflow.db
    every_n_steps: int = 10  # steps from one row of training metrics to the next
    others: dict[str, Any] = field(default_factory=dict)  # further ones: +logger.others.NAME._target_=CLASS

    def __post_init__(self) -> None:
        require(self.every_n_steps >= 1, "every_n_steps", self.every_n_steps, "must be at least 1", "10 is usual")
        self.others = {name: checked(each, LOGGERS, f"others.{name}") for name, each in self.others.items()}

    def require_usable(self) -> None:
        """Refuse a logger that is not installed or cannot be found, does not take its arguments, or lets nobody in."""
        from gptlab.training.dashboards import require_mlflow_server, require_wandb_login

        for name, each in self.others.items():
            require_arguments(each, LOGGERS, "logger", f"logger.others.{name}")
        for package, wanted in {"wandb": self.wandb, "mlflow": self.mlflow, "trackio": self.trackio}.items():
            missing = wanted and find_spec(package) is None
            require(not missing, f"logger.{package}", "true", "is not installed", f"pip install 'gptlab[{package}]'")
        if self.wandb:
            require_wandb_login()
        if self.mlflow:
            require_mlflow_server(self._uri)

    def build(self, run_dir: Path, name: str, resumed: int | None = None, before: Path | None = None) -> list[Logger]:
        """Build the loggers of a run.

        `resumed` is the step after which the run in `before` is resumed: later entries will be logged again.
        """
        from gptlab.training.lightning_internals import tensorboard_logger
        from gptlab.training.metrics_file import MetricsFile, metrics_until

        others = ((name, each) for name, each in self.others.items())
        loggers: list[Logger] = [made(each, LOGGERS, "logger", f"logger.others.{name}") for name, each in others]
        if self.tensorboard:
            loggers.append(tensorboard_logger(run_dir, None if resumed is None else resumed + 1))
        if self.csv:
            kept = metrics_until(before / "metrics.csv", resumed) if before and resumed is not None else []
            loggers.append(MetricsFile(run_dir / "metrics.csv", kept))
        title = run_dir.name if name in run_dir.name else f"{run_dir.name}-{name}"
        if self.wandb:
            from lightning.pytorch.loggers import WandbLogger

            known = _kept(run_dir / "wandb_run_id", lambda: secrets.token_hex(8))
            wandb_logger = WandbLogger(title, run_dir, id=known, resume="allow", project=self.project)
            _ = wandb_logger.experiment  # connects
            loggers.append(wandb_logger)
        if self.mlflow:
            loggers.append(self._mlflow(run_dir, title))
        if self.trackio:
            from gptlab.training.trackio_logger import TrackioLogger

            known = _kept(run_dir / "trackio_run_id", lambda: secrets.token_hex(4))
            loggers.append(TrackioLogger(self.project, f"{title}-{known}"))
        return loggers

    def close(self, good: bool) -> None:
        """Close what would otherwise stay open for the next run of this process."""
        if self.wandb:
            import wandb

            wandb.finish(exit_code=0 if good else 1)

    @property
    def _uri(self) -> str:
        """The address of MLflow's server or file."""
        return self.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///outputs/mlflow.db"

    def _mlflow(self, run_dir: Path, title: str) -> Logger:
        from gptlab.training.lightning_internals import early_rank, mlflow_logger

        note = run_dir / "mlflow_run_id"
        known = _known(note)
        logger = mlflow_logger(self.project, title, self._uri, known)
        if known is None and early_rank() == 0:
            Path("outputs").mkdir(exist_ok=True)
            _kept(note, lambda: str(logger.run_id))
        return logger


def _kept(note: Path, new: Callable[[], str]) -> str | None:
    """Return a dashboard's name for a run, kept in its directory for a resumed run; None on ranks that do not log."""
    from gptlab.training.lightning_internals import early_rank

    if early_rank() != 0:
        return None
    if (known := _known(note)) is None:
        known = new()
        write_atomically(note, known.encode())
    return known


def _known(note: Path) -> str | None:
    """Return the name that a dashboard gave a run; None where there is none yet, or it is no such name."""
    try:
        known = read_bounded(note, 100).decode("ascii", "replace")
    except OSError:
        return None
    return known if re.fullmatch(r"\w{1,64}", known, re.ASCII) else None


@option("callbacks", "monitor")
@dataclass
class Monitor:
    """The monitors of the model besides the metrics."""

    norms: bool = False  # norms of gradients (before clipping) and weights, by layer
    histograms: bool = False  # histograms of every weight, at each validation, in TensorBoard
    others: dict[str, Any] = field(default_factory=dict)  # +callbacks.others.NAME._target_=CLASS or .option=NAME

    def __post_init__(self) -> None:
        self.others = {name: checked(each, CALLBACKS, f"others.{name}") for name, each in self.others.items()}

    def require_classes(self) -> None:
        """Refuse callbacks that cannot be found, before any data is read."""
        for name, each in self.others.items():
            found(each, CALLBACKS, "callback", f"callbacks.others.{name}")

    def build(self) -> list[Callback]:
        """Return the callbacks, those of other packages after our own."""
        from gptlab.training.callbacks.tensorboard import LayerNorms, WeightHistograms

        own = [kind() for kind, wanted in ((LayerNorms, self.norms), (WeightHistograms, self.histograms)) if wanted]
        others = [made(each, CALLBACKS, "callback", f"callbacks.others.{name}") for name, each in self.others.items()]
        return [*own, *others]
