"""Search for the best values of some keys by Optuna's samplers: `hydra/sweeper=search`.

A trial is the job of its number, with that number's overrides. The study, a file in the sweep's directory, remembers
what was drawn; the job's own directory remembers what came of it. A search that is killed at any instant therefore goes
on as it would have: trials that have not been told are launched again under their numbers, and the launcher runs those
that have not ended. The draws of a trial are seeded by its number, so that no search draws its first points twice.
"""

import dataclasses
import importlib.metadata
import itertools
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig

from gptlab.config.hydra_internals import compose_job
from gptlab.config.schema import to_typed
from gptlab.errors import UserError, reason, require, require_choice
from gptlab.files import write_atomically
from gptlab.metrics import HIGHER, in_summary, metric
from gptlab.randomness import seed_sequence
from gptlab.runs.config_file import as_yaml
from gptlab.runs.origin import SEARCHED
from gptlab.runs.reader import finite
from gptlab.sweep.job import jobs_in
from gptlab.sweep.pruning import Pruning
from gptlab.sweep.search_space import Parameter, space_of

DATABASE = "study.db"  # in the sweep's directory
TRIALS = 16  # where their number is not given
SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "asha", "hyperband")
COSTS = ("parameters", "flops", "seconds", "tokens", "energy_kwh", "peak_memory_bytes")  # in summaries; less is better
OWNER = "sweep"  # what a study calls the directory of the search that it belongs to

Launch = Callable[[Sequence[Sequence[str]], int], Any]  # (overrides of jobs, the number of the first)


@dataclass
class SearchConfig:
    """The fields of `hydra.sweeper`."""

    sampler: str = "tpe"
    n_trials: int | None = None
    n_jobs: int | None = None
    seed: int = 0
    metrics: Sequence[str] | None = None
    pruner: str = "none"
    min_steps: int | None = None
    reduction_factor: int = 3
    storage: str | None = None
    study_name: str | None = None

    def __post_init__(self) -> None:
        require_choice("hydra.sweeper.sampler", self.sampler, SAMPLERS)
        require_choice("hydra.sweeper.pruner", self.pruner, PRUNERS)
        factor = self.reduction_factor
        proper = type(factor) is int and factor >= 2
        require(proper, "hydra.sweeper.reduction_factor", factor, "is no number of at least 2", "try 3")
        for key in ("n_trials", "n_jobs", "min_steps"):
            value = getattr(self, key)
            fine = value is None or (type(value) is int and value >= 1)
            require(fine, f"hydra.sweeper.{key}", value, "is no number of at least 1", "give one, or leave it out")
        proper = type(self.seed) is int and 0 <= self.seed < 2**32
        require(proper, "hydra.sweeper.seed", self.seed, "is no integer in [0, 2^32)", "try 1")


@dataclass(frozen=True)
class Objective:
    """A figure of each job's result that a search improves, and which way."""

    name: str
    key: str  # in summaries
    higher: bool

    @property
    def worst(self) -> float:
        return -math.inf if self.higher else math.inf


def search(fields: dict[str, Any], context: HydraContext, config: DictConfig, launcher: Any, argv: list[str]) -> None:
    """Run the search that a command line asks for: `fields` are those of `hydra.sweeper`, `argv` its other overrides.

    `launcher` is any of Hydra's. Raises UserError.
    """
    known = [each.name for each in dataclasses.fields(SearchConfig)]
    for key in fields:
        todo = f"choose {', '.join(known)}"
        require(key in known, f"hydra.sweeper.{key}", fields[key], "no such field of hydra/sweeper=search", todo)
    settings = SearchConfig(**fields)
    import_optuna()  # before anything is looked up
    parser = OverridesParser.create(config_loader=context.config_loader)
    space = space_of(parser.parse_overrides(argv))
    first = compose_job(context, config, [each if isinstance(each, str) else each.first for each in space])
    own = [first.search_metric or to_typed(first.task).better]
    sought = objectives(own if settings.metrics is None else settings.metrics)
    at_once = getattr(launcher, "at_once", 1)
    watches = settings.pruner == "none" or hasattr(launcher, "watch")
    why = "stops running jobs, which only gptlab's own launcher does"
    require(watches, "hydra.sweeper.pruner", settings.pruner, why, "leave it out, or choose hydra/launcher=local")

    def launch(jobs: Sequence[Sequence[str]], number: int) -> None:
        launcher.launch(jobs, initial_job_idx=number)

    found = Search(settings, space, Path(config.hydra.sweep.dir), sought, launch, at_once)
    if found.pruning is not None:
        launcher.watch = found.pruning
    found.run()


def objectives(names: Iterable[str]) -> list[Objective]:
    """Return what a search improves: metrics that have a better direction, and costs of a run."""
    known = {each.name: each for each in in_summary() if each.better is not None}
    found = []
    for name in names:
        todo = f"choose of {', '.join([*known, *COSTS])}"
        why = "no figure of a run that has a better direction"
        require(name in known or name in COSTS, "hydra.sweeper.metrics", name, why, todo)
        found.append(Objective(name, metric(name).key, name in known and known[name].better == HIGHER))
    return found


def import_optuna() -> Any:
    """Return Optuna; raises UserError where it is missing, or is the older one of the sweeper `optuna`."""
    install = "in an environment without gptlab[sweep], pip install 'gptlab[search]'"
    try:
        version = importlib.metadata.version("optuna")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError("hydra/sweeper", "search", "needs Optuna, which is not installed", install) from error
    why = f"needs Optuna 5, and {version} is installed"
    require(int(version.partition(".")[0]) >= 5, "hydra/sweeper", "search", why, install)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # which says each step of making a database
    import optuna

    return optuna


class Search:
    """A study in a sweep's directory, whose trials `launch` runs as jobs, up to `at_once` of them at a time.

    `space` has the overrides of a job, of which the parameters are drawn. Raises UserError where the study cannot be
    used.
    """

    def __init__(
        self,
        config: SearchConfig,
        space: Sequence[str | Parameter],
        folder: Path,
        objectives: Sequence[Objective],
        launch: Launch,
        at_once: int,
    ) -> None:
        self.config, self.space, self.folder, self.launch = config, space, folder, launch
        self.objectives = list(objectives)
        self.at_once = config.n_jobs or at_once
        self.optuna = import_optuna()
        searched = [each for each in space if isinstance(each, Parameter)]
        todo = "give a key values, such as 'optimizer.lr=tag(log, interval(1e-4, 1e-2))' or model.n_layer=2,4"
        require(bool(searched), "hydra/sweeper", "search", "no key has several values", todo)
        self.grid: list[dict[str, Any]] = []
        if config.sampler == "grid":
            points = itertools.product(*(each.grid() for each in searched))
            self.grid = [dict(zip((each.key for each in searched), point, strict=True)) for point in points]
            if config.pruner != "none":  # the first trials go on unopposed, and should not be each other's neighbours
                order = np.random.default_rng(seed_sequence(config.seed, "search")).permutation(len(self.grid))
                self.grid = [self.grid[place] for place in order]
        self.n_trials = (
            min(config.n_trials or len(self.grid), len(self.grid)) if self.grid else config.n_trials or TRIALS
        )
        self._require_prunable()
        self.study = self._open()
        self.pruning: Pruning | None = None
        if config.pruner != "none":
            name, hyperband = self.objectives[0].name, config.pruner == "hyperband"
            factor = config.reduction_factor
            self.pruning = Pruning(self.optuna, self.study, name, hyperband, config.min_steps, factor)

    def _require_prunable(self) -> None:
        """Refuse to prune by several objectives, or by what is known only of a whole run."""
        pruner, names = self.config.pruner, ", ".join(each.name for each in self.objectives)
        todo = "leave it out, or give one metric"
        one = pruner == "none" or len(self.objectives) == 1
        require(one, "hydra.sweeper.pruner", pruner, f"compares by one metric, not by {names}", todo)
        known = pruner == "none" or names not in COSTS
        require(known, "hydra.sweeper.pruner", pruner, f"{names} is known only at the end", todo)

    def _open(self) -> Any:
        """Return the study, a new one or that of an earlier start of the same sweep."""
        optuna, own = self.optuna, str(self.folder.resolve())
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        from sqlalchemy.exc import SQLAlchemyError

        url = self.config.storage or f"sqlite:///{self.folder / DATABASE}"
        name = self.config.study_name or ("search" if self.config.storage is None else own)
        try:
            study = optuna.create_study(
                study_name=name,
                storage=url,
                directions=["maximize" if each.higher else "minimize" for each in self.objectives],
                load_if_exists=True,
            )
        except (SQLAlchemyError, RuntimeError, ValueError, ImportError) as error:
            todo = "give a database that Optuna can use, such as sqlite:///FILE, or leave it out"
            if self.config.storage is None:
                todo = f"take {DATABASE} from another copy of the sweep, or start a new one"
            raise UserError("hydra.sweeper.storage", url, f"cannot be used ({reason(error)})", todo) from error
        owner = study.user_attrs.get(OWNER)
        if owner is None:
            study.set_user_attr(OWNER, own)
        elif self.config.storage is not None:  # a file in the sweep's own directory may have moved with it
            why, todo = f"has the trials of another sweep, {owner}", "give another name"
            require(owner == own, "hydra.sweeper.study_name", name, why, todo)
        return study

    def run(self) -> None:
        """Finish the trials that were begun, and run new ones until there are `n_trials`."""
        self._run(dict(self._again(each) for each in self.study.trials if not each.state.is_finished()))
        while (left := self.n_trials - len(self.study.trials)) > 0:
            drawn = dict(self._draw() for _ in range(min(left, self.at_once)))
            if not self._run(drawn):
                break  # nothing but mistakes: the next ones would be no better
        self._conclude()

    def _draw(self) -> tuple[int, list[str]]:
        """Begin a new trial; returns its number and its overrides."""
        self.study.sampler = self._sampler(len(self.study.trials))
        return self._drawn(self.study.ask())

    def _again(self, trial: Any) -> tuple[int, list[str]]:
        """Return the number and the overrides of a trial that was begun; what it has not drawn yet it draws."""
        self.study.sampler = self._sampler(trial.number)
        return self._drawn(self.optuna.trial.Trial(self.study, trial._trial_id))

    def _drawn(self, trial: Any) -> tuple[int, list[str]]:
        if self.pruning is not None:
            self.pruning.trials[trial.number] = trial
        return trial.number, [each if isinstance(each, str) else each.suggest(trial) for each in self.space]

    def _sampler(self, number: int) -> Any:
        """Return the sampler of one trial."""
        samplers = self.optuna.samplers
        seed = int(seed_sequence(self.config.seed, "search", number).generate_state(1)[0])
        if self.config.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        chance = samplers.RandomSampler(seed=seed)
        if not self.grid:
            return chance
        with warnings.catch_warnings():  # it says that it may change
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            return samplers.PartialFixedSampler(self.grid[number], chance)

    def _run(self, jobs: dict[int, list[str]]) -> bool:
        """Launch jobs, and tell the study what came of them; return whether any job so far was more than a mistake.

        Those that were stopped are not told: they go on when the sweep does.
        """
        for numbers in consecutive(jobs):
            self.launch([jobs[number] for number in numbers], numbers[0])
        results = {job.num: job.result() for job in jobs_in(self.folder)}
        for number in jobs:
            self._tell(number, results.get(number, {"status": "failed"}))
        return any(result["status"] != "refused" for result in results.values())

    def _tell(self, number: int, result: dict[str, Any]) -> None:
        states, status = self.optuna.trial.TrialState, result["status"]
        if status in ("failed", "refused"):
            self.study.tell(number, state=states.FAIL)
        elif status == "pruned":
            self.study.tell(number, state=states.PRUNED)
        elif status == "finished":
            values = [finite(result.get(each.key)) for each in self.objectives]
            if len(values) == 1 and values[0] is None:  # it diverged, which a sampler should learn to avoid
                values = [self.objectives[0].worst]
            if None in values:
                self.study.tell(number, state=states.FAIL)
            else:
                self.study.tell(number, values)

    def _conclude(self) -> None:
        """Write the best trials, as the sweeper `optuna` does, and say which they are."""
        complete = [each for each in self.study.trials if each.state == self.optuna.trial.TrialState.COMPLETE]
        if not complete:
            return
        best, found = self.study.best_trials, dict[str, Any]()
        if len(self.objectives) == 1:
            found = {"best_params": best[0].params, "best_value": best[0].value}
        else:
            found = {"solutions": [{"params": each.params, "values": list(each.values)} for each in best]}
        write_atomically(self.folder / SEARCHED, as_yaml({"name": "search", **found}).encode())
        what = "the best" if len(self.objectives) == 1 else "not beaten in all objectives"
        for trial in best:
            scores = ", ".join(
                f"{each.name} {metric(each.name).text(value, precise=True)}"
                for each, value in zip(self.objectives, trial.values, strict=True)
            )
            drawn = " ".join(f"{key}={value}" for key, value in trial.params.items())
            print(f"{what} of {len(self.study.trials)} trials: job {trial.number}, {scores}: {drawn}", flush=True)


def consecutive(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers in groups without gaps: a launcher numbers its jobs from the first one on."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
