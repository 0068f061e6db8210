"""Define the launcher of `gptlab train -m`, here because Hydra takes plugins only from this package.

Every program that uses Hydra imports this file, so it imports almost nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """A launcher of a sweep's jobs, `jobs_per_device` at a time on each GPU, or on all cores without a GPU."""

    def __init__(self, jobs_per_device: int = 1) -> None:
        self.jobs_per_device = jobs_per_device
        # set by a sweeper that prunes jobs: whether a running one should end
        self.watch: Callable[[Any], bool] | None = None

    @property
    def at_once(self) -> int:
        """The number of jobs of one device each that have a place at the same time."""
        from gptlab.distributed.devices import gpus

        return self.jobs_per_device * max(1, len(gpus()))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from gptlab.commands.mistakes import explain
        from gptlab.sweep.launcher import launch

        each = self.jobs_per_device
        return launch(self.hydra_context, self.config, job_overrides, initial_job_idx, each, explain, self.watch)
