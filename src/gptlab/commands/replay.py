"""The verb `replay`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.errors import require
from gptlab.files import require_new
from gptlab.registry import command
from gptlab.runs.samples import visible

if TYPE_CHECKING:
    import torch

    from gptlab.runs.run_dir import RunDir


@dataclass
class ReplayConfig:
    """Rebuild the batch of one step of a run: its windows, their text, and the loss that the model has on them now."""

    step: int | None = None  # the step whose batch is rebuilt: 1, 2, ...
    run: str = "latest"  # a run directory, or latest
    out: str | None = None  # a new file for the tensors x and y, (B, T) each
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(self.step is not None, "step", "null", "is needed", "give step=N")
        require(self.step is None or self.step >= 1, "step", self.step, "must be at least 1", "the first step is 1")


@command
def replay(config: ReplayConfig) -> dict[str, Any]:
    """Rebuild the batch of one step of a run.

    Prints and returns the windows of the step, with their text and the loss of each under the run's checkpoint.
    """
    from gptlab.runs.run_dir import RunDir

    out = Path(config.out).expanduser() if config.out else None
    if out:
        require_new(out, kind="file")
    run = RunDir.find(config.run)  # before torch is imported

    import torch

    from gptlab.config.record import read_typed
    from gptlab.data.batches.datamodule import TextDataModule
    from gptlab.data.text.sources import DataConfig
    from gptlab.data.tokens.prepare import prepare
    from gptlab.data.tokens.progress import watching
    from gptlab.evaluation.model import require_next_tokens

    assert config.step is not None
    console = Console()
    require_next_tokens(run)
    before = read_typed(run.path / "config.yaml")
    why, todo = "was not trained on windows of text", "replay knows no other batches"
    require(isinstance(before.data, DataConfig), "run", config.run, why, todo)
    with watching(console) as watch:
        corpus = prepare(before.data, before.tokenizer, watch)
    hash_before, hash_now = run.held_out_manifest()["sha256"], corpus.manifest["sha256"]
    why, todo = "the text is not the one of the run any more", "bring it back to what it was"
    require(hash_before == hash_now, "data", hash_now[:12], why, todo)
    data = TextDataModule(corpus, before.data, before.model.block_size, before.seed)
    data.batch_sizes = before.batch_sizes
    windows = data.windows_of(config.step)
    batch = data.rows(windows)
    x, y = batch.x, batch.y
    losses = _losses(run, x, y, corpus.tokenizer.eot if before.data.mask_documents else None)
    rows = [
        {
            "source": source,
            "window": window,
            "loss": loss,
            "text": corpus.tokenizer.decode(data.train[source].ids(window).tolist()),
        }
        for (source, window), loss in zip(windows, losses, strict=True)
    ]
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"x": x, "y": y, "windows": windows}, out)
    _print(console, config.step, rows)
    return {"run": str(run.path), "step": config.step, "data_hash": hash_now, "windows": rows}


def _losses(run: RunDir, x: torch.Tensor, y: torch.Tensor, separator: int | None) -> list[float]:
    """Return the mean nats per token of each row, (N,), by the weights that the run has now."""
    import torch

    from gptlab.data.batches.batch import IGNORE
    from gptlab.evaluation.model import load_language_model
    from gptlab.model.gpt import read_by_document
    from gptlab.tasks.cross_entropy import cross_entropy

    gpt, _ = load_language_model(run)
    each = ((x[i : i + 1], y[i : i + 1]) for i in range(len(x)))
    with torch.no_grad():
        return [
            cross_entropy(read_by_document(gpt, ids, separator), targets, "sum").item()
            / max(1, int((targets != IGNORE).sum()))
            for ids, targets in each
        ]


def _print(console: Console, step: int, rows: list[dict[str, Any]]) -> None:
    table = Table("source", "window", "loss now", "text", title=f"step {step}", title_justify="left")
    for row in rows:
        begin = Text(visible(row["text"][:60]).replace("\n", "⏎"), overflow="ellipsis", no_wrap=True)
        table.add_row(str(row["source"]), str(row["window"]), f"{row['loss']:.3f}", begin)
    console.print(table)
