"""The verb `compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.data.config import BatchConfig
from gptlab.errors import UserError, require
from gptlab.files import require_file, strict_json, write_atomically
from gptlab.metrics import metrics, shown_in
from gptlab.registry import command

if TYPE_CHECKING:
    from gptlab.evaluation.compared import Comparison

SIDES = ("a", "b")


@dataclass
class CompareConfig:
    """Two runs, or the seeds of two configs, on the same held-out documents, or on `tasks`."""

    # a run, a Hugging Face directory, or several seeds of one config: [RUN,RUN], or with *
    a: str | list[str] | None = None
    b: str | list[str] | None = None  # as `a`: what it is compared with
    data: BatchConfig | None = None  # null: the documents that all of them hold out
    metric: str | None = None  # null: bits per byte, or the task's own
    # bundled ones, such as cloze, qa, sentiment, copying, JSON lines of one's own, or lm-eval's
    tasks: list[str] = field(default_factory=list)
    tasks_dir: str | None = None  # a folder with task files of lm-eval, whose names `tasks` may have
    max_new_tokens: int = 64  # the most tokens that are written for an item of a task
    chat: bool = False  # tasks are asked in the run's chat template
    batch_size: int = 16  # windows that are scored at once
    block_size: int | None = None  # tokens per window; null: the context each model was trained with
    resamples: int = 10_000  # draws of the bootstrap
    seed: int = 1337  # of the draws of the bootstrap
    margin: float | None = None  # a difference of at most this is none in practice, in the metric's unit
    paired: bool = False  # compare the runs of each seed with each other, where that was seen to help
    out: str | None = None  # a JSON file; null: A/compare/B.json
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        for side in SIDES:
            given = getattr(self, side)
            require(given is not None, side, "null", "is needed", f"give {side}=RUN")
            require(bool(self.runs(side)) and all(self.runs(side)), side, given, "is empty", "give a run, or [RUN,RUN]")
        require(not (self.tasks and self.data), "tasks", self.tasks, "and data are given", "give one of them")
        alone = next((key for key in ("chat", "tasks_dir") if getattr(self, key) and not self.tasks), "")
        require(not alone, alone, getattr(self, alone, ""), "goes with tasks=[...]", "give both, or leave it out")
        known = [each.quantity for each in (shown_in("tasks") if self.tasks else shown_in("compare"))]
        group = "tasks" if self.tasks else "val"
        of_lm_eval = self.tasks and "," in (self.metric or "")  # such as acc,none: the task knows it
        ok = not self.metric or of_lm_eval or any(each.name == f"{group}/{self.metric}" for each in metrics())
        require(ok, "metric", self.metric, "no such option", f"choose one of {', '.join(known)}")
        require(self.resamples >= 100, "resamples", self.resamples, "is too few", "10000 is usual")
        for key, usual in {"batch_size": 16, "max_new_tokens": 64}.items():
            value = getattr(self, key)
            require(value >= 1, key, value, "must be at least 1", f"try {usual}")
        require(self.seed >= 0, "seed", self.seed, "is negative", "try 1337")
        require(self.margin is None or self.margin > 0, "margin", self.margin, "is not above 0", "try 0.01")
        size = self.block_size
        require(size is None or size >= 1, "block_size", size, "must be at least 1", "leave it out")

    def runs(self, side: str) -> list[str]:
        """Return the runs of side `a` or `b`."""
        given = getattr(self, side)
        return given if isinstance(given, list) else [given]


@command
def compare(config: CompareConfig) -> dict[str, Any]:
    """Compare two runs on the same documents: the difference and its interval.

    Prints and stores the difference b - a, and returns it without the single documents.
    """
    from rich.console import Console

    from gptlab.evaluation.eval_task import read_tasks
    from gptlab.evaluation.lm_eval_tasks import find_tasks
    from gptlab.evaluation.statistics import require_scipy
    from gptlab.interop.hub_directory import run_of
    from gptlab.runs.reader import expand

    require_scipy()
    if config.out:
        require_file("out", Path(config.out).expanduser())
    sides = {side: [run_of(side, name) for name in expand(config.runs(side))] for side in SIDES}  # before torch
    theirs = find_tasks(config.tasks, config.tasks_dir)
    own = [name for name in config.tasks if name not in theirs.names]
    if own and "," in (config.metric or ""):  # only lm-eval's have such: no items need be made to tell
        todo = f"choose one of {', '.join(each.quantity for each in shown_in('tasks'))}"
        raise UserError("metric", config.metric, f"the task {own[0]} has no such metric", todo)
    tasks = read_tasks(own)

    from gptlab.evaluation.compared import Asked
    from gptlab.evaluation.comparison import compare_runs
    from gptlab.evaluation.example_comparison import by_example, compare_examples
    from gptlab.evaluation.task_comparison import compare_tasks
    from gptlab.reporting.comparison import found_table, sentences

    of_tasks = config.max_new_tokens, config.chat
    size, drawn = config.block_size, (config.resamples, config.seed)
    of_seeds = config.margin, config.paired
    asked = Asked(config.data, config.metric, size, config.batch_size, *drawn, *of_tasks, *of_seeds)
    if config.tasks:
        every = compare_tasks(sides, asked, tasks, theirs)
    else:
        compare = compare_examples if by_example(sides, config.data) else compare_runs
        every = {"": compare(sides, asked)}
    whole = {name: {**found.result, "per_unit": found.per_unit} for name, found in every.items()}
    path = Path(config.out).expanduser() if config.out else _place(next(iter(every.values())), list(every))
    content = {"tasks": whole} if config.tasks else whole[""]
    write_atomically(path, (strict_json(content, indent=2) + "\n").encode())
    console = Console()
    for found in every.values():
        console.print(found_table(found, console.width))
        for line in sentences(found.result):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"all of it is in {path}", markup=False, highlight=False, soft_wrap=True)
    results = {name: found.result for name, found in every.items()}
    return {**({"tasks": results} if config.tasks else results[""]), "out": str(path)}


def _place(found: Comparison, tasks: list[str]) -> Path:
    """Return A/compare/B.json, or A/compare/B-TASK.json."""
    others = [each.name for each in found.every if each.side == "b"]
    more = f"-and-{len(others) - 1}-more" if len(others) > 1 else ""
    of_tasks = "".join(f"-{task}" for task in tasks if task)[:40]
    return found.every[0].run.path / "compare" / f"{others[0][:150]}{more}{of_tasks}.json"
