"""The batch of any step of a run, rebuilt: which windows, what text, and what the model makes of it."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.commands.configs import ReplayConfig
from gptlab.config import TrainConfig, compose
from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.progress import watching
from gptlab.errors import UserError, require
from gptlab.model.gpt import read_by_document
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.cross_entropy import cross_entropy


def replay(config: ReplayConfig) -> dict[str, Any]:
    """The windows of a step, with their text and the loss of each under the run's checkpoint."""
    console = Console()
    run = RunDir.find(config.run)
    before: TrainConfig = compose("train", [f"run_dir={run.path}"], run.path.resolve(), "config")
    with watching(console) as watch:
        corpus = prepare(before.data, before.tokenizer, watch)
    hash_before, hash_now = run.held_out_manifest()["sha256"], corpus.manifest["sha256"]
    why, todo = "the text is not the one of the run any more", "bring it back to what it was"
    require(hash_before == hash_now, "data", hash_now[:12], why, todo)
    data = TextDataModule(corpus, before.data, before.model.block_size, before.seed)
    windows = data.windows_of(config.step)
    x, y, _ = data.rows(windows)
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
    if config.out:
        if Path(config.out).exists():
            raise UserError("out", config.out, "exists already", "give a new file")
        torch.save({"x": x, "y": y, "windows": windows}, config.out)
    _print(console, config.step, rows)
    return {"run": str(run.path), "step": config.step, "data_hash": hash_now, "windows": rows}


@torch.no_grad()
def _losses(run: RunDir, x: torch.Tensor, y: torch.Tensor, separator: int | None) -> list[float]:
    """Mean nats per token of each row (N,), by the weights the run has now."""
    gpt, _ = run.load()
    each = ((x[i : i + 1], y[i : i + 1]) for i in range(len(x)))
    return [
        cross_entropy(read_by_document(gpt, ids, separator), targets, "sum").item()
        / max(1, int((targets != IGNORE).sum()))
        for ids, targets in each
    ]


def _print(console: Console, step: int, rows: list[dict[str, Any]]) -> None:
    table = Table("source", "window", "loss now", "text", title=f"step {step}", title_justify="left")
    for row in rows:
        begin = Text(row["text"][:60].replace("\n", "⏎"), overflow="ellipsis", no_wrap=True)
        table.add_row(str(row["source"]), str(row["window"]), f"{row['loss']:.3f}", begin)
    console.print(table)
