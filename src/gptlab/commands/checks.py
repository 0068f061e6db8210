"""Check a config: run its own model on its own data for about a minute, on this machine."""

import dataclasses
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches.batch import Batch
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.sampler import TrainBatches
from gptlab.data.text.sources import DataConfig
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.progress import watching
from gptlab.errors import RunFailed
from gptlab.model.config import build_model
from gptlab.optim.schedules import Constant
from gptlab.runs.config_file import record, write_config
from gptlab.runs.run_dir import PASSING, RunDir
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.budget import Budget
from gptlab.training.config import Checkpoint, TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.metrics_file import metrics_until
from gptlab.training.start import initial_model, with_vocabulary

STEPS = 4
WINDOWS = 4  # per batch
Finding = tuple[bool, str]  # whether it passed, and the figure


def run_checks(config: TrainConfig) -> dict[str, Any]:
    """Print and return the result of every check, with its figure; raises RunFailed if one fails."""
    console = Console()
    if config.resume:  # what the run began with may be gone
        config = dataclasses.replace(config, init_from=None)
    trained, tokenizer = initial_model(config)
    with watching(console) as watch:
        corpus = prepare(config.data, tokenizer, watch)
    assert isinstance(config.data, DataConfig)
    model = trained.config if trained else with_vocabulary(config.model, corpus.tokenizer.n_vocab)
    data = dataclasses.replace(config.data, batch_size=WINDOWS, micro_batch_size=None, num_workers=0)
    datamodule = TextDataModule(corpus, data, model.block_size, config.seed)
    batch = datamodule.rows(datamodule.windows_of(1))
    torch.manual_seed(config.seed)
    gpt = (trained.gpt if trained else build_model(model)).eval()
    table, findings = Table("check", "", "found"), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(dataclasses.replace(config, data=data), Path(folder))
        for name, ask in _checks(gpt, trained is None, batch, datamodule, runs):
            with console.status(name):
                passed, found = ask()
            findings[name] = {"passed": passed, "found": found}
            table.add_row(name, "[green]pass[/]" if passed else "[red]FAIL[/]", found)
    console.print(table)
    if failed := [name for name, finding in findings.items() if not finding["passed"]]:
        raise RunFailed(f"check: {', '.join(failed)}: failed; see the table")
    return {"checks": findings}


def _checks(
    gpt: Any, is_new: bool, batch: Batch, data: TextDataModule, runs: "Runs"
) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Yield the name of each check that suits the model, and what makes it."""
    yield "causality", lambda: causal(gpt, batch.x)
    if is_new:
        yield "first loss near ln V", lambda: uniform(gpt, batch)
    yield "order of the data", lambda: ordered(data)
    yield "overfits one batch", lambda: overfits(runs, hasattr(gpt.config, "dropout"))
    yield "micro-batches add up", lambda: runs.compare("data.micro_batch_size=1")
    yield "two processes as one", lambda: runs.compare("trainer.accelerator=cpu", "trainer.devices=2")
    yield "resume to the bit", lambda: resumes(runs)
    yield "bf16 close to fp32", lambda: drift(gpt, batch, Loss(CausalLM(), gpt, dtype=torch.bfloat16), 0.02)
    yield "compiled as eager", lambda: compiled(gpt, batch)
    if hasattr(gpt, "new_cache"):
        yield "cache as no cache", lambda: cached(gpt, batch.x)


@torch.no_grad()
def causal(gpt: Any, x: torch.Tensor) -> Finding:
    """Check that no logit depends on a later token."""
    changed, half = x.clone(), x.shape[1] // 2
    changed[:, half:] = (x[:, half:] + 1) % gpt.config.vocab_size
    gap = (gpt(x)[:, :half] - gpt(changed)[:, :half]).abs().max().item()
    return gap < 1e-4, f"max |Δ logit| {gap:.1e}"


@torch.no_grad()
def uniform(gpt: Any, batch: Batch) -> Finding:
    """Check that an untrained model's loss is about ln V."""
    loss, expected = _loss(Loss(CausalLM(), gpt), batch), math.log(gpt.config.vocab_size)
    return abs(loss - expected) < 0.1 * expected, f"{loss:.3f}; ln V is {expected:.3f}"


def ordered(data: TextDataModule) -> Finding:
    """Check that each window is read once an epoch, and in the same order by any number of ranks."""
    steps = min(64, len(data.train[0]) // WINDOWS)
    expected = [sorted(data.windows_of(step + 1)) for step in range(steps)]
    seen = [window for step in expected for window in step]
    twice = len(seen) - len(set(seen)) if len(data.train) == 1 and not data.config.repeat_steps else 0
    for ranks in (1, 2, 4):
        sizes = BatchSizes(WINDOWS)
        parts = [list(TrainBatches(data.order, steps, sizes, 1, rank, ranks)) for rank in range(ranks)]
        each = WINDOWS // ranks
        for step in range(steps):
            dealt = [
                window
                for part in parts
                for passed in part[step * each : step * each + each]
                for window in passed.windows
            ]
            if sorted(dealt) != expected[step]:
                return False, f"step {step + 1} differs with {ranks} ranks"
    return twice == 0, f"{len(seen)} windows, {twice} of them twice"


def overfits(runs: "Runs", drops_out: bool) -> Finding:
    """Check that the loss falls when one batch is repeated."""
    ask = ["data.repeat_steps=1", "budget.steps=40", "logger.every_n_steps=1"]
    run = runs.train("overfit", *ask, *(["model.dropout=0"] if drops_out else []))
    losses = [row["train/loss"] for row in _metrics(run) if "train/loss" in row]
    return losses[-1] < 0.7 * losses[0], f"{losses[0]:.3f} to {losses[-1]:.3f} in 40 steps"


def resumes(runs: "Runs") -> Finding:
    """Check that a run resumed from a checkpoint in its middle, in a copy, ends with the same weights."""
    whole = runs.train("plain")
    copy = whole.with_name("copy")
    shutil.copytree(whole, copy)
    (copy / "checkpoints/last.ckpt").unlink()
    (copy / f"checkpoints/step-{STEPS}.ckpt").unlink()
    RunDir(copy).write_summary({"status": "running"})
    _gptlab([f"resume={copy}"])
    first, second = (_weights(run) for run in (whole, copy))
    differ = sum(int((first[key] != second[key]).sum()) for key in first)
    return differ == 0, f"{differ} of {sum(w.numel() for w in first.values()):,} weights differ"


@torch.no_grad()
def drift(gpt: Any, batch: Batch, other: Loss, bound: float) -> Finding:
    """Check that two ways of computing the loss differ by less than `bound`."""
    gap = abs(_loss(Loss(CausalLM(), gpt), batch) - _loss(other, batch))
    return gap < bound, f"|Δ loss| {gap:.1e}"


def compiled(gpt: Any, batch: Batch) -> Finding:
    """Check that a compiled model gives the loss of the uncompiled one."""
    loss = Loss(CausalLM(), gpt)
    loss.compile()
    try:
        return drift(gpt, batch, loss, 1e-3)
    except Exception as error:  # compilers fail in many ways
        return False, f"cannot be compiled here ({type(error).__name__}); leave compile=true out"


@torch.no_grad()
def cached(gpt: Any, x: torch.Tensor) -> Finding:
    """Check that logits from a KV cache equal those without one."""
    T = min(x.shape[1], 32)
    cache, gap = gpt.new_cache(len(x), T), 0.0
    whole = gpt(x[:, :T])
    for t in range(T):
        gap = max(gap, (gpt(x[:, t : t + 1], cache=cache)[:, -1] - whole[:, t]).abs().max().item())
    return gap < 1e-4, f"max |Δ logit| {gap:.1e} over {T} tokens"


class Runs:
    """Short runs of one config in a folder, each in a process of its own."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self.folder = folder
        quiet = dataclasses.replace(config.logger, tensorboard=False, csv=True, every_n_steps=1)
        often = Checkpoint(every_n_steps=STEPS // 2)
        steady = Constant(warmup_steps=0)
        config = dataclasses.replace(
            config, budget=Budget(steps=STEPS), schedule=steady, checkpoint=often, logger=quiet, sample_prompts=[]
        )
        write_config(folder / "config.yaml", record(config))

    def train(self, name: str, *overrides: str) -> Path:
        run = self.folder / name
        if not run.exists():
            _gptlab([f"config={self.folder / 'config.yaml'}", f"run_dir={run}", *overrides])
        return run

    def compare(self, *overrides: str) -> Finding:
        """Return the losses of the run as it is, and of the same run with `overrides`."""
        first, second = _metrics(self.train("plain")), _metrics(self.train(overrides[-1].replace("=", "-"), *overrides))
        pairs = zip(first, second, strict=True)
        gap = max(abs(a[key] - b[key]) for a, b in pairs for key in ("train/loss", "val/loss") if key in a)
        return gap < 1e-3, f"max |Δ loss| {gap:.1e}"


def _gptlab(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "gptlab", "train", *arguments]
    done = subprocess.run(command, env=os.environ | {PASSING: "1"}, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise RunFailed(f"check: a short run failed ({said[0].removeprefix('error: ')}); fix this first")


def _metrics(run: Path) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in metrics_until(run / "metrics.csv")]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


def _loss(loss: Loss, batch: Batch) -> float:
    return loss(batch.x, batch.y).sum().item() / int((batch.y >= 0).sum())
