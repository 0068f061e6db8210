"""Budgets that share the first steps of a larger one: where their runs part from it, and how they begin there."""

import dataclasses
from collections.abc import Callable

from gptlab.optim.schedules import steps_in_common
from gptlab.runs.config_file import record, with_defaults
from gptlab.runs.run_dir import RunDir
from gptlab.training.averaging import begin_of_tail
from gptlab.training.budget import Budget, Plan
from gptlab.training.config import TrainConfig
from gptlab.training.resume import checkpoint_of
from gptlab.training.start import Start, plain


def partings(config: TrainConfig, steps: int, planned: Callable[[Budget], Plan | None]) -> set[int]:
    """Return the steps after which runs of the budgets `checkpoint.horizons` part from one of `steps` steps.

    Those that are not smaller, as a branch has them of its trunk, are none.
    """
    ((unit, most),) = config.budget.fixed().items()
    found = set[int]()
    for amount in (each for each in config.checkpoint.horizons if each < most):
        budget: Budget = dataclasses.replace(config.budget, **{unit: amount})  # type: ignore[arg-type]
        plan = planned(budget)
        found |= {_parting(config, plan.steps, steps)} if plan else set()
    return found - {0}


def branch_off(begun: Start, steps: int) -> None:
    """Let a new run of `steps` steps that continues a longer one, and names no checkpoint, begin where the two part.

    It takes the newest checkpoint until there; where there is none, or another rate, it keeps the one that it has.
    """
    trunk = begun.resumed_from
    named = trunk is None or trunk.checkpoint.name != "last.ckpt"
    if trunk is None or named or begun.in_place or steps >= begun.step or trunk.status() != "finished":
        return
    before, now = with_defaults(trunk.config()), plain(record(begun.config))
    if any(before.get(part) != now[part] for part in ("schedule", "optimizer")):
        return
    until = _parting(begun.config, steps, begun.step)
    if earlier := [path for step, path in trunk.by_step().items() if step <= until]:
        begun.checkpoint, begun.step, _ = checkpoint_of(RunDir(trunk.path, earlier[-1]))


def _parting(config: TrainConfig, steps: int, more: int) -> int:
    """Return after which step a run parts from a longer one; its last step is always its own, and so is its tail."""
    tail = begin_of_tail(config.tail_average, steps)
    return min(steps_in_common(config.schedule, config.batch_sizes, steps, more), steps - 1 if tail is None else tail)
