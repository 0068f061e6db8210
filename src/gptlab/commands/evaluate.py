"""The verb `evaluate`: how well the model of a run predicts held-out text, all of it."""

from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.commands.configs import EvaluateConfig
from gptlab.evaluation.perplexity import evaluate as score
from gptlab.evaluation.surprise import file_surprises
from gptlab.reporting.scores import score_table
from gptlab.reporting.surprise import write_surprise_page
from gptlab.runs.run_dir import RunDir


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Print and return the scores of a run on held-out text, or write the page of a text file's surprises."""
    run, console = RunDir.find(config.run), Console()
    if config.text is None:
        result = score(run, config.data, config.block_size, config.batch_size)
        console.print(score_table(result))
        return result
    gpt, tokenizer = run.load()
    block_size = config.block_size or gpt.config.block_size
    tokens = file_surprises(gpt, tokenizer, config.text, block_size, config.batch_size)
    page = run.path / "surprise.html"
    line = write_surprise_page(page, Path(config.text).name, tokens, tokenizer.spell)
    console.print(f"{line}\nthe page is {page}", markup=False, highlight=False, soft_wrap=True)
    mean = sum(token.nats for token in tokens) / len(tokens)
    return {"loss": mean, "tokens": len(tokens), "page": str(page)}
