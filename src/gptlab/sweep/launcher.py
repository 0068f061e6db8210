"""Launch the jobs of `train -m`, each in its own processes, packed on the devices of this machine."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig
from rich.console import Console

from gptlab.config.hydra_internals import complete_job, prepare_job, start_launcher
from gptlab.config.tree import typed_config
from gptlab.distributed.devices import cores, gpus, may_be_gpu
from gptlab.errors import require
from gptlab.sweep.branches import share_trunks
from gptlab.sweep.job import GRACE, Devices, Job, RunConfig, score_text
from gptlab.sweep.live import Board

Explain = Callable[[Exception, list[str]], str]  # formats a mistake in one line
Watch = Callable[[Job], bool]  # whether a running job should be pruned


def launch(
    context: HydraContext,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    per_device: int,
    explain: Explain,
    watch: Watch | None = None,
) -> list[JobReturn]:
    """Run the jobs of these overrides, numbered from `first`; each returns its search metric."""
    require(per_device >= 1, "hydra.launcher.jobs_per_device", per_device, "must be at least 1", "try 1 or 2")
    start_launcher(config)
    machine = Machine(per_device, gpus())
    prepared = [_prepare(context, config, list(o), first + i, machine, explain) for i, o in enumerate(job_overrides)]
    share_trunks([(job, wanted) for _, job, wanted in prepared if wanted is not None])
    refused = [job for _, job, wanted in prepared if wanted is None]
    waiting: list[tuple[Job, Devices]] = []
    for _, job, wanted in prepared:
        if wanted is None and len(refused) < len(prepared):
            _say(f"job {job.num} is refused: {job.result()['error']}")
        elif wanted is None:
            continue  # the command says so at the end
        elif job.settled:
            _say(f"job {job.num} has {'finished' if job.finished else 'been pruned'} before")
        else:
            waiting.append((job, wanted.trainer))
    run_all(waiting, machine, watch)
    for ret, job, _ in prepared:
        complete_job(ret, job.search_value())
    return [ret for ret, _, _ in prepared]


def _prepare(
    context: HydraContext, config: DictConfig, overrides: list[str], num: int, machine: "Machine", explain: Explain
) -> tuple[JobReturn, Job, RunConfig | None]:
    """Compose a job's config and write it down; return None if something is wrong with it."""
    jobs: list[Job] = []

    def prepare(cfg: DictConfig) -> RunConfig:
        hydra_config = HydraConfig.get()
        jobs.append(Job(Path(hydra_config.runtime.output_dir), num, list(hydra_config.overrides.task)))
        typed: RunConfig = typed_config(cfg, hydra_config.runtime.output_dir)
        machine.devices(typed.trainer)
        jobs[0].prepare(typed)
        return typed

    ret, typed, error = prepare_job(context, config, overrides, num, prepare)
    if error is not None:
        jobs[0].refuse(explain(error, overrides))
    return ret, jobs[0], typed


class Machine:
    """The free places for jobs on this machine: `places` on each GPU, or on the cores if no GPU is used."""

    def __init__(self, places: int, gpus: list[str]) -> None:
        self.places, self.gpus = places, gpus
        self._taken: dict[Job, list[str]] = {}

    def devices(self, trainer: Devices) -> tuple[int, bool]:
        """Return the number of devices that a job asks for, and whether they are GPUs; `auto` is one."""
        on_gpu = bool(self.gpus) and may_be_gpu(trainer.accelerator)
        wanted = str(trainer.devices)
        why, todo = "a sweep chooses the devices of its jobs", "give their number"
        require(wanted == "auto" or wanted.isdecimal(), "trainer.devices", wanted, why, todo)
        why, todo = "the jobs of a sweep share this machine", "see hydra/launcher=submitit_slurm"
        require(trainer.num_nodes == 1, "trainer.num_nodes", trainer.num_nodes, why, todo)
        number, most = 1 if wanted == "auto" else int(wanted), len(self.gpus)
        why = f"this machine has {most} GPUs"
        require(not on_gpu or number <= most, "trainer.devices", number, why, f"choose up to {most}")
        return number, on_gpu

    def take(self, job: Job, trainer: Devices) -> dict[str, str] | None:
        """Return an environment in which the job has its devices to itself; None while none are free."""
        number, on_gpu = self.devices(trainer)
        taken = [place for places in self._taken.values() for place in places]
        every = self.gpus if on_gpu else ["cores"]
        free = sorted((place for place in every if taken.count(place) < self.places), key=taken.count)
        if len(free) < (number if on_gpu else 1):
            return None
        self._taken[job] = free[:number] if on_gpu else free
        return {"CUDA_VISIBLE_DEVICES": ",".join(self._taken[job])} if on_gpu else threads(self.places * number)

    def give_back(self, job: Job) -> None:
        del self._taken[job]


def threads(processes: int) -> dict[str, str]:
    """Return an environment in which some processes share the cores; one process alone decides for itself."""
    if processes == 1:
        return {}
    share = max(1, cores() // processes)
    return {"OMP_NUM_THREADS": str(min(share, int(os.environ.get("OMP_NUM_THREADS", share))))}


def run_all(waiting: list[tuple[Job, Devices]], machine: Machine, watch: Watch | None = None) -> None:
    """Run the jobs in order, as many at once as there are places; Ctrl-C ends them all.

    Those of which `watch` returns True are pruned.
    """
    running: list[Job] = []
    board = Board([job for job, _ in waiting], Console())
    try:
        with board.shown():
            _run_all(waiting, machine, running, board, watch)
    except BaseException:
        end_all(running)
        raise


def _run_all(
    waiting: list[tuple[Job, Devices]], machine: Machine, running: list[Job], board: Board, watch: Watch | None
) -> None:
    """Run the jobs in order, branches behind their trunks; `running` has those whose processes are there."""
    while waiting or running:
        while (ready := following(waiting, running)) and (env := machine.take(*ready)) is not None:
            waiting.remove(ready)
            job = ready[0]
            where = os.path.relpath(job.path)
            _say(f"job {job.num} {'goes on' if job.checkpoint else 'starts'} in {where}")
            job.start(env)
            running.append(job)
            board.start(job)
        time.sleep(0.1)
        board.update()
        for job in running:
            if watch is not None and not job.pruned and watch(job):
                job.prune()
        for job in [job for job in running if not job.running()]:
            running.remove(job)
            machine.give_back(job)
            board.end(job, job.result()["status"])
            _say(f"job {job.num} {_outcome(job)}")


def following(waiting: list[tuple[Job, Devices]], running: list[Job]) -> tuple[Job, Devices] | None:
    """Return the first job whose trunk, if it has one, has ended."""
    not_ended = {*running, *(job for job, _ in waiting)}
    return next((each for each in waiting if each[0].trunk not in not_ended), None)


def end_all(jobs: list[Job]) -> None:
    """Let jobs save and end, and leave none of their processes behind."""
    for job in jobs:
        job.stop()
    deadline = time.monotonic() + GRACE
    try:
        while jobs and time.monotonic() < deadline:
            jobs = [job for job in jobs if job.running()]
            time.sleep(0.1)
    finally:  # also after a second Ctrl-C, which does not wait
        for job in jobs:
            job.kill()
            job.running()


def _say(line: str) -> None:
    print(line, flush=True)  # a log file should show progress during a long sweep


def _outcome(job: Job) -> str:
    result = job.result()
    if "error" in result:
        return f"{result['status']}: {result['error']}; see {os.path.relpath(job.path / 'job.log')}"
    return f"{result['status']}, {job.search_metric.head} {score_text(result)}"
