"""Log a run to trackio, which keeps it in files on this machine and needs no account."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """A run of trackio; one of the same name goes on. It is begun by the first thing that is logged."""

    def __init__(self, project: str, title: str) -> None:
        super().__init__()
        self.project, self.title = project, title
        self._run: Any = None

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str:
        return self.title

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._begin(dict(vars(params) if isinstance(params, Namespace) else params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._begin({}).log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _begin(self, config: dict[str, Any]) -> Any:
        if self._run is None:
            import trackio

            quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            self._run = trackio.init(self.project, self.title, config=config, resume="allow", **quiet)
        return self._run
