"""The verb `evaluate`."""

from dataclasses import dataclass
from typing import Any

from gptlab.data.text.sources import DataConfig
from gptlab.errors import require
from gptlab.registry import command


@dataclass
class EvaluateConfig:
    """Score the model of a run on held-out text: the run's own, or that of another `data`."""

    data: DataConfig | None = None
    run: str = "latest"
    batch_size: int = 16
    block_size: int | None = None  # tokens per window; null: the context the model was trained with
    explain: bool = False  # RUN/surprise.html: every token of `text` coloured by its surprise
    text: str | None = None  # a file
    json: bool = False

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 16")
        size = self.block_size
        require(size is None or size >= 1, "block_size", size, "must be at least 1", "leave it out")
        require(self.explain == bool(self.text), "explain", self.explain, "goes with text=FILE", "give both or none")
        require(not (self.text and self.data), "text", self.text, "and data are given", "give one of them")


@command
def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score the model of a run on all of its held-out text."""
    from gptlab.evaluation.perplexity import evaluate
    from gptlab.evaluation.surprise import explain
    from gptlab.runs.run_dir import RunDir

    run = RunDir.find(config.run)
    if config.text is None:
        return evaluate(run, config.data, config.block_size, config.batch_size)
    gpt, tokenizer = run.load()
    block_size = config.block_size or gpt.config.block_size
    return explain(run, gpt, tokenizer, config.text, block_size, config.batch_size)
