"""The verb `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.data.config import BatchConfig
from gptlab.errors import require, require_choice
from gptlab.evaluation.precision import PRECISIONS
from gptlab.files import strict_json, write_atomically
from gptlab.registry import command

if TYPE_CHECKING:
    from rich.console import Console

    from gptlab.evaluation.held_out import Sliding
    from gptlab.runs.run_dir import RunDir

LONGEST = 64  # contexts of a window


@dataclass
class EvaluateConfig:
    """Score the model of a run on held-out text, the run's own or that of another `data`; or on `tasks`.

    Several runs are an ensemble: the probability of each token is the mean of what they give it. `anatomy` takes the
    loss of each apart instead, and `checkpoints` scores each on tasks.
    """

    data: BatchConfig | None = None  # null: the held-out part of the run; else the held-out part of this
    # a run, a checkpoint, a Hugging Face directory, or latest; an ensemble: [RUN,RUN], or with *
    run: str | list[str] = "latest"
    batch_size: int = 16  # windows that are scored at once
    block_size: int | None = None  # tokens per window; null: the context the model was trained with
    protocol: str = "windows"  # windows: as in training | sliding: over each document, with more context for each token
    stride: int | None = None  # tokens that sliding windows move on by; null: half of block_size
    precision: str = "32-true"  # 32-true | bf16-true | int8 (weights of 8 bits, on a CPU): of the computation
    explain: bool = False  # write RUN/surprise.html: every token of `text` coloured by its surprise
    text: str | None = None  # the file that `explain` reads
    # write RUN/anatomy.html: the loss by position, frequency, repetition and place, of each run
    anatomy: bool = False
    length: int = 1  # anatomy: windows of up to so many contexts, such as 4
    # bundled ones, such as cloze, qa, copying, JSON lines of one's own, or lm-eval's
    tasks: list[str] = field(default_factory=list)
    tasks_dir: str | None = None  # a folder with task files of lm-eval, whose names `tasks` may have
    # tasks at every checkpoint of the runs: their signal, and their noise over the last so many
    checkpoints: int | None = None
    max_new_tokens: int = 64  # the most tokens that are written for an item of a task
    chat: bool = False  # tasks are asked in the run's chat template
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 16")
        size = self.block_size
        require(size is None or size >= 1, "block_size", size, "must be at least 1", "leave it out")
        known, stride = ("windows", "sliding"), self.stride
        require(self.protocol in known, "protocol", self.protocol, "no such protocol", "choose windows or sliding")
        slides = self.protocol == "sliding"
        require(stride is None or slides, "stride", stride, "goes with protocol=sliding", "give both, or leave it out")
        require(stride is None or stride >= 1, "stride", stride, "must be at least 1", "leave it out")
        require_choice("precision", self.precision, PRECISIONS)
        elsewhere = next((each for each in ("tasks", "text") if getattr(self, each)), None)
        require(self.length >= 1, "length", self.length, "must be at least 1", "try 4")
        require(self.length <= LONGEST, "length", self.length, f"is more than {LONGEST}", "try 4")
        rounded = self.precision != "32-true"
        other = elsewhere or ("anatomy" if self.anatomy else None)
        require(not (rounded and other), "precision", self.precision, f"and {other} are given", "give one of them")
        apart = self.length == 1 or self.anatomy
        require(apart, "length", self.length, "goes with anatomy=true", "give both, or leave it out")
        require(not (self.anatomy and elsewhere), "anatomy", True, f"and {elsewhere} are given", "give one of them")
        require(not (slides and elsewhere), "protocol", "sliding", f"and {elsewhere} are given", "give one of them")
        require(self.explain == bool(self.text), "explain", self.explain, "goes with text=FILE", "give both or none")
        require(bool(self.runs) and all(self.runs), "run", self.run, "is empty", "give a run, or [RUN,RUN]")
        require(not (self.text and self.data), "text", self.text, "and data are given", "give one of them")
        other = "data" if self.data else "text" if self.text else None
        require(not (self.tasks and other), "tasks", self.tasks, f"and {other} are given", "give one of them")
        alone = next((key for key in ("chat", "tasks_dir", "checkpoints") if getattr(self, key) and not self.tasks), "")
        require(not alone, alone, getattr(self, alone, ""), "goes with tasks=[...]", "give both, or leave it out")
        last = self.checkpoints
        require(last is None or last >= 2, "checkpoints", last, "must be at least 2", "try 5")
        most = self.max_new_tokens
        require(most >= 1, "max_new_tokens", most, "must be at least 1", "try 64")

    @property
    def runs(self) -> list[str]:
        """The runs, by their names."""
        return self.run if isinstance(self.run, list) else [self.run]


@command
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score the model of a run, or an ensemble of several, on all of the held-out text.

    Prints and returns the scores, or writes a page with the surprise of each token of a text file, or with the loss
    taken apart. With `tasks` it is scored on them, and RUN/tasks/TASK.json has the figures of each item.
    """
    from rich.console import Console

    from gptlab.interop.hub_directory import run_of
    from gptlab.runs.reader import expand

    runs, console = [run_of("run", name) for name in expand(config.runs)], Console()  # before torch is imported
    single = "explain" if config.explain else "tasks" if config.tasks and not config.checkpoints else None
    alone = len(runs) == 1 or single is None
    require(alone, "run", config.run, f"are several, and {single} reads one", "give one run")
    if config.tasks:
        return _on_tasks(config, runs, console)
    if config.text is not None:
        return _explained(config, config.text, runs[0], console)
    return (_anatomy if config.anatomy else _scores)(config, runs, console)


def _scores(config: EvaluateConfig, runs: list[RunDir], console: Console) -> dict[str, Any]:
    from gptlab.evaluation.ensembles import evaluate_together
    from gptlab.evaluation.perplexity import evaluate as score
    from gptlab.reporting.scores import label_table, score_table, unspelled_line

    asked = config.data, config.block_size, config.batch_size, _sliding(config), config.precision
    result = evaluate_together(runs, *asked) if len(runs) > 1 else score(runs[0], *asked)
    console.print(score_table(result))
    if line := unspelled_line(result):
        console.print(line)
    if by_label := label_table(result):
        console.print(by_label)
    return result


def _anatomy(config: EvaluateConfig, runs: list[RunDir], console: Console) -> dict[str, Any]:
    """Print the loss taken apart; write RUN/anatomy.json for each run, and the page of all into the first."""
    from gptlab.evaluation.statistics import require_scipy
    from gptlab.reporting.pictures import require_matplotlib
    from gptlab.runs.alike import require_distinct, require_one_tokenizer

    require_scipy("anatomy", "true")
    require_matplotlib("anatomy", "true", "")
    require_distinct("run", runs)
    require_one_tokenizer("run", runs)

    from gptlab.evaluation.anatomy import anatomy
    from gptlab.evaluation.ensembles import require_same_text
    from gptlab.reporting.anatomy import anatomy_tables, write_anatomy_page

    if config.data is None:
        require_same_text(runs)
    asked = config.data, config.block_size, config.batch_size, _sliding(config), config.length
    every = [anatomy(run, *asked) for run in runs]
    for run, result in zip(runs, every, strict=True):
        write_atomically(run.path / "anatomy.json", (strict_json(result, indent=2) + "\n").encode())
        for table in anatomy_tables(result):
            console.print(table)
    page = runs[0].path / "anatomy.html"
    write_anatomy_page(page, every)
    console.print(f"the page is {page}", markup=False, highlight=False, soft_wrap=True)
    return {**(every[0] if len(every) == 1 else {"runs": every}), "page": str(page)}


def _on_tasks(config: EvaluateConfig, runs: list[RunDir], console: Console) -> dict[str, Any]:
    """Print the scores of tasks, or, with `checkpoints`, what tells their signal from their noise."""
    from gptlab.evaluation.eval_task import read_tasks
    from gptlab.evaluation.lm_eval_tasks import evaluate_with_lm_eval, find_tasks
    from gptlab.runs.alike import require_checkpoints, require_distinct

    if config.checkpoints:
        require_distinct("run", runs)
        require_checkpoints(runs, config.checkpoints)
    theirs = find_tasks(config.tasks, config.tasks_dir)
    tasks = read_tasks([name for name in config.tasks if name not in theirs.names])

    from gptlab.evaluation.task_curves import task_curves
    from gptlab.evaluation.task_evaluation import evaluate_tasks
    from gptlab.reporting.scores import lm_eval_tables, task_tables
    from gptlab.reporting.task_curves import curve_table, write_curve_page

    asked_how = config.block_size, config.batch_size, config.max_new_tokens, config.chat
    run = runs[0]
    if config.checkpoints:
        curves = {
            "checkpoints": config.checkpoints,
            "tasks": task_curves(runs, tasks, theirs, config.checkpoints, *asked_how),
        }
        path = run.path / "task_curves.json"
        write_atomically(path, (strict_json(curves, indent=2) + "\n").encode())
        console.print(curve_table(curves, len(runs)))
        if find_spec("matplotlib"):
            write_curve_page(path.with_suffix(".html"), curves)
            console.print(f"the page is {path.with_suffix('.html')}", markup=False, highlight=False, soft_wrap=True)
        return {**curves, "file": str(path)}
    found = evaluate_tasks(run, tasks, *asked_how) if tasks else {}
    of_lm_eval = evaluate_with_lm_eval(run, theirs, *asked_how) if theirs.names else {}
    for table in [*task_tables(found), *lm_eval_tables(of_lm_eval)]:
        console.print(table)
    return {"tasks": found | of_lm_eval}


def _explained(config: EvaluateConfig, text: str, run: RunDir, console: Console) -> dict[str, Any]:
    """Write the page with the surprise of each token of a text file."""
    from gptlab.evaluation.model import load_language_model
    from gptlab.evaluation.surprise import file_surprises
    from gptlab.reporting.surprise import write_surprise_page

    gpt, tokenizer = load_language_model(run)
    block_size = config.block_size or gpt.config.block_size
    tokens, how = file_surprises(run, gpt, tokenizer, text, block_size, config.batch_size)
    page = run.path / "surprise.html"
    line = write_surprise_page(page, Path(text).name, tokens, tokenizer.spell)
    console.print(f"{line}\nthe page is {page}", markup=False, highlight=False, soft_wrap=True)
    mean = sum(token.nats for token in tokens) / len(tokens)
    return {"loss": mean, "tokens": len(tokens), "page": str(page), "protocol": how}


def _sliding(config: EvaluateConfig) -> Sliding | None:
    from gptlab.evaluation.held_out import Sliding

    return Sliding(config.stride) if config.protocol == "sliding" else None
