"""The verb `average`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.errors import require
from gptlab.files import require_new
from gptlab.registry import command, name_of

if TYPE_CHECKING:
    from gptlab.runs.run_dir import RunDir


@dataclass
class AverageConfig:
    """Average the weights of runs, or of several checkpoints of one, into a new run."""

    runs: list[str] = field(default_factory=list)  # runs, or checkpoints in them: [RUN,RUN], or with *
    weights: list[float] | None = None  # how much each of them counts; null: all the same
    out: str | None = None  # a new directory
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require("" not in self.runs, "runs", self.runs, "has an empty one", "drop it")
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR")
        few = all(weight > 0 for weight in self.weights or [])
        require(few, "weights", self.weights, "are not all above 0", "leave out what does not count")
        require(sum(self.weights or []) < math.inf, "weights", self.weights, "have no finite sum", "give smaller ones")


@command
def average(config: AverageConfig) -> dict[str, Any]:
    """Average the weights of several runs or checkpoints into a new run."""
    from gptlab.runs.reader import expand
    from gptlab.runs.run_dir import RunDir

    assert config.out
    out, names = Path(config.out).expanduser(), expand(config.runs)
    require(len(names) > 1, "runs", config.runs, "is less than two", "give runs=[RUN,RUN] or runs=[RUN/checkpoints/*]")
    weights = config.weights or [1.0] * len(names)
    why = f"are {len(weights)}, and there are {len(names)} runs"
    require(len(weights) == len(names), "weights", weights, why, "give one for each run")
    require_new(out)
    runs = [RunDir.find_as("runs", name) for name in names]  # before torch is imported

    from gptlab.evaluation.model import load_with_task
    from gptlab.runs.alike import require_distinct, require_one_tokenizer
    from gptlab.runs.weight_mean import write_mean

    require_distinct("runs", runs)
    require_one_tokenizer("runs", runs)
    _require_one_task(runs)
    shares = [weight / sum(weights) for weight in weights]
    summary = write_mean(runs, lambda run: load_with_task(run)[1], shares, out)
    print(f"averaged {len(runs)} models of {summary['parameters']:,} parameters into {out}")
    if not RunDir(out).has_held_out():
        print("it keeps no held-out data: the runs do not hold out the same")
    return {**summary, "run_dir": str(out)}


def _require_one_task(runs: Sequence[RunDir]) -> None:
    """Refuse runs of different tasks, and of one with settings that change what is learned."""
    from gptlab.tasks.saved import task_of

    first: Any = task_of(runs[0].config())
    for run in runs:
        task: Any = task_of(run.config())
        own, theirs = ({"task": name_of(each), **asdict(each)} for each in (task, first))
        key = next((key for key, value in own.items() if value != theirs.get(key)), "task")
        why = f"has {key}={own[key]}, and {runs[0].path} has {theirs.get(key)}"
        require(task == first, "runs", run.path, why, "name runs of one task")
