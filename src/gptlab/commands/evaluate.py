"""The verb `evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.data.config import BatchConfig
from gptlab.errors import require
from gptlab.registry import command


@dataclass
class EvaluateConfig:
    """Score the model of a run on held-out text, the run's own or that of another `data`; or on `tasks`.

    Several runs are an ensemble: the probability of each token is the mean of what they give it.
    """

    data: BatchConfig | None = None  # null: the held-out part of the run; else the held-out part of this
    # a run, a checkpoint, a Hugging Face directory, or latest; an ensemble: [RUN,RUN], or with *
    run: str | list[str] = "latest"
    batch_size: int = 16  # windows that are scored at once
    block_size: int | None = None  # tokens per window; null: the context the model was trained with
    protocol: str = "windows"  # windows: as in training | sliding: over each document, with more context for each token
    stride: int | None = None  # tokens that sliding windows move on by; null: half of block_size
    explain: bool = False  # write RUN/surprise.html: every token of `text` coloured by its surprise
    text: str | None = None  # the file that `explain` reads
    # bundled ones, such as cloze, qa, copying, JSON lines of one's own, or lm-eval's
    tasks: list[str] = field(default_factory=list)
    tasks_dir: str | None = None  # a folder with task files of lm-eval, whose names `tasks` may have
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
        elsewhere = next((each for each in ("tasks", "text") if getattr(self, each)), None)
        require(not (slides and elsewhere), "protocol", "sliding", f"and {elsewhere} are given", "give one of them")
        require(self.explain == bool(self.text), "explain", self.explain, "goes with text=FILE", "give both or none")
        require(bool(self.runs) and all(self.runs), "run", self.run, "is empty", "give a run, or [RUN,RUN]")
        require(not (self.text and self.data), "text", self.text, "and data are given", "give one of them")
        other = "data" if self.data else "text" if self.text else None
        require(not (self.tasks and other), "tasks", self.tasks, f"and {other} are given", "give one of them")
        alone = next((key for key in ("chat", "tasks_dir") if getattr(self, key) and not self.tasks), "")
        require(not alone, alone, getattr(self, alone, ""), "goes with tasks=[...]", "give both, or leave it out")
        most = self.max_new_tokens
        require(most >= 1, "max_new_tokens", most, "must be at least 1", "try 64")

    @property
    def runs(self) -> list[str]:
        """The runs, by their names."""
        return self.run if isinstance(self.run, list) else [self.run]


@command
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score the model of a run, or an ensemble of several, on all of the held-out text.

    Prints and returns the scores, or writes a page with the surprise of each token of a text file. With `tasks` it is
    scored on them, and RUN/tasks/TASK.json has the figures of each item.
    """
    from rich.console import Console

    from gptlab.evaluation.eval_task import read_tasks
    from gptlab.evaluation.lm_eval_tasks import evaluate_with_lm_eval, find_tasks
    from gptlab.interop.hub_directory import run_of
    from gptlab.runs.reader import expand

    runs, console = [run_of("run", name) for name in expand(config.runs)], Console()  # before torch is imported
    run, several = runs[0], len(runs) > 1
    single = "explain" if config.explain else "tasks" if config.tasks else None
    require(not (several and single), "run", config.run, f"are several, and {single} reads one", "give one run")
    theirs = find_tasks(config.tasks, config.tasks_dir)
    tasks = read_tasks([name for name in config.tasks if name not in theirs.names])

    from gptlab.evaluation.ensembles import evaluate_together
    from gptlab.evaluation.held_out import Sliding
    from gptlab.evaluation.model import load_language_model
    from gptlab.evaluation.perplexity import evaluate as score
    from gptlab.evaluation.surprise import file_surprises
    from gptlab.evaluation.task_evaluation import evaluate_tasks
    from gptlab.reporting.scores import label_table, lm_eval_tables, score_table, task_tables, unspelled_line
    from gptlab.reporting.surprise import write_surprise_page

    if config.tasks:
        asked_how = config.block_size, config.batch_size, config.max_new_tokens, config.chat
        found = evaluate_tasks(run, tasks, *asked_how) if tasks else {}
        of_lm_eval = evaluate_with_lm_eval(run, theirs, *asked_how) if theirs.names else {}
        for table in [*task_tables(found), *lm_eval_tables(of_lm_eval)]:
            console.print(table)
        return {"tasks": found | of_lm_eval}
    if config.text is None:
        sliding = Sliding(config.stride) if config.protocol == "sliding" else None
        asked = config.data, config.block_size, config.batch_size, sliding
        result = evaluate_together(runs, *asked) if several else score(run, *asked)
        console.print(score_table(result))
        if line := unspelled_line(result):
            console.print(line)
        if by_label := label_table(result):
            console.print(by_label)
        return result
    gpt, tokenizer = load_language_model(run)
    block_size = config.block_size or gpt.config.block_size
    tokens, how = file_surprises(run, gpt, tokenizer, config.text, block_size, config.batch_size)
    page = run.path / "surprise.html"
    line = write_surprise_page(page, Path(config.text).name, tokens, tokenizer.spell)
    console.print(f"{line}\nthe page is {page}", markup=False, highlight=False, soft_wrap=True)
    mean = sum(token.nats for token in tokens) / len(tokens)
    return {"loss": mean, "tokens": len(tokens), "page": str(page), "protocol": how}
