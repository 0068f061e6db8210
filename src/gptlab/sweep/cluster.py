"""Run one job started by another launcher: Hydra's own, or a cluster's through submitit."""

import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlab.config.tree import typed_config
from gptlab.distributed.devices import gpus
from gptlab.errors import UserError, require
from gptlab.sweep.job import Job, RunConfig
from gptlab.sweep.launcher import Explain, Machine, run_all


def run_one(hydra_config: HydraConf, cfg: DictConfig, train: Callable[..., Any], explain: Explain) -> float:
    """Run a job to its end and return its search metric; any failure is recorded in its directory."""
    path, overrides = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
    job = Job(path, hydra_config.job.num, overrides)
    task = _Task() if "SUBMITIT_EXECUTOR" in os.environ else None
    first = task is None or task.rank == 0
    try:
        config: Any = typed_config(cfg, str(path))
        if task:
            config = replace(config, trainer=replace(config.trainer, devices=task.devices(config)))
        if first:
            job.prepare(config)
        if job.settled:
            pass
        elif task:
            task.join()
            train(replace(config, resume=str(job.checkpoint) if job.checkpoint else None))
        else:
            run_all([(job, config.trainer)], Machine(1, gpus()))
    except (UserError, OmegaConfBaseException) as error:
        if first:
            job.refuse(explain(error, overrides))
    except Exception as error:
        traceback.print_exc()
        if first:
            job.fail(f"{type(error).__name__}: {error}")
    return job.search_value()


class _Task:
    """One of the processes that submitit has started for a job: they are the ranks of its training."""

    def __init__(self) -> None:
        import submitit

        self.env = submitit.JobEnvironment()
        self.rank = int(self.env.global_rank)

    def devices(self, config: RunConfig) -> int:
        """Return the number of devices of each node: one for each task."""
        tasks, given = int(self.env.num_tasks), config.trainer.devices
        each = tasks // config.trainer.num_nodes if given == "auto" else given
        why = f"on {config.trainer.num_nodes} node(s), but the job has {tasks} task(s)"
        todo = "give as many as hydra.launcher.tasks_per_node, and trainer.num_nodes as hydra.launcher.nodes"
        require(
            str(each) == str(tasks / config.trainer.num_nodes).removesuffix(".0"), "trainer.devices", given, why, todo
        )
        return int(each)

    def join(self) -> None:
        """Tell Lightning its rank if Slurm does not."""
        if self.env.cluster == "slurm" or self.env.num_tasks == 1:
            return
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(20_000 + int(self.env.job_id) % 40_000),
            "WORLD_SIZE": str(self.env.num_tasks),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(self.rank),
        }
