"""A training run, top to bottom."""

import dataclasses
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.text import Text

from gptlab.config import TrainConfig
from gptlab.config.record import record
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.windows import protocol
from gptlab.data.tokens.prepare import Corpus
from gptlab.decoding.decoders import Greedy
from gptlab.distributed.ranks import Ranks, SameConfig
from gptlab.errors import RunFailed, require
from gptlab.model.gpt import GPT, num_params
from gptlab.planning.flops import flops_per_token
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint
from gptlab.training import console as report
from gptlab.training.budget import Plan
from gptlab.training.callbacks.batch_size_finder import BatchSizeFinder, micro_batches, use
from gptlab.training.callbacks.checkpointing import Checkpoints, best
from gptlab.training.callbacks.graceful_stop import GracefulStop, requeue
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.samples import Samples
from gptlab.training.callbacks.stability_monitor import StabilityMonitor
from gptlab.training.callbacks.step_timer import StepTimer
from gptlab.training.callbacks.tensorboard import TensorBoardLayout
from gptlab.training.callbacks.throughput_monitor import ThroughputMonitor
from gptlab.training.config import SCORES
from gptlab.training.loss import Loss
from gptlab.training.memory import keep_freed_pages
from gptlab.training.module import GPTModule, NotFinite
from gptlab.training.peak_flops import peak_flops
from gptlab.training.resume import samples_until
from gptlab.training.sharding import ShardedGPTModule
from gptlab.training.start import begin

ADVICE = (
    "The dirpath has changed",
    "does not have many workers",
    "exists and is not empty",
    "treespec, LeafSpec",
    "The `srun` command is available",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "It is recommended to use `self.log",
    "Total length of .* across ranks is zero",
)


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train as asked; returns what summary.json holds, or None in a process that is not rank 0."""
    _quieten()
    console = Console(quiet=rank_zero_only.rank != 0)  # type: ignore[attr-defined]
    begun = begin(config, console)
    config, whole, corpus, before, resumed = begun.config, begun.whole, begun.corpus, begun.before, begun.resumed
    seed, path, model_config = config.seed, Path(config.run_dir), whole.model
    datamodule = TextDataModule(corpus, config.data, model_config.block_size, seed)

    tokens_per_step = config.data.batch_size * model_config.block_size
    with torch.device("meta"):
        parameters = num_params(GPT(model_config))
    flops = flops_per_token(model_config)
    sizes = (tokens_per_step, datamodule.tokens_per_epoch, parameters, flops)
    plan = config.budget.plan(*sizes)
    steps = plan.steps if plan else 1  # until they are timed
    if plan:
        begun.require_more_than(steps)

    def timed(seconds_per_step: float) -> Plan:
        """The plan, which is written down, so that a run that goes on or is repeated has it too."""
        budget = dataclasses.replace(config.budget, seconds_per_step=seconds_per_step)
        if trainer.is_global_zero:
            run.write_config(record(dataclasses.replace(whole, budget=budget)))
        found = budget.plan(*sizes)
        assert found is not None
        return found

    ranks, every = Ranks(), config.checkpoint
    speed = ThroughputMonitor(tokens_per_step, lambda: datamodule.seconds_waited)
    samples = Samples(path, config.sample_prompts, corpus.tokenizer, config.decoder, seed)
    checkpoints = Checkpoints(path / "checkpoints", every.every_n_steps, every.every_n_minutes, every.keep_last, ranks)
    stops = GracefulStop(checkpoints, ranks, config.trainer.max_minutes)
    callbacks = [
        SameConfig(record(whole)),
        speed,
        TensorBoardLayout(record(whole), list(dict.fromkeys([config.objective, *SCORES])), swept(path)),
        *config.callbacks.build(),
        StabilityMonitor(path, corpus.tokenizer, config.on_nan, config.spike_sigmas, console),
        best(path / "checkpoints"),
        checkpoints,
        samples,
        ProgressBar(console, config.trainer.enable_progress_bar),
        stops,
        *([EMAWeightAveraging(decay=config.ema)] if config.ema else []),
        *([BatchSizeFinder(console)] if config.data.micro_batch_size == "auto" else []),
        *([] if plan else [StepTimer(timed, config.trainer.val_every_n_steps, resumed or 0, ranks, console)]),
    ]
    trainer = config.trainer.build(
        steps, config.logger.build(path, config.name, resumed, before.path if before else None), callbacks, path
    )
    trainer.val_check_interval, datamodule.steps = min(config.trainer.val_every_n_steps, steps), steps
    asked = config.data.micro_batch_size
    size, _ = micro_batches(config.data.batch_size, None if asked == "auto" else asked, trainer.world_size)
    use(trainer, datamodule, size)

    config.trainer.require_precision(trainer.strategy.root_device)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_pages()
    L.seed_everything(seed, verbose=False)
    gpt = begun.loaded or GPT(model_config)  # only now: mistakes above must not wait for a large one
    module = as_module(config, gpt, corpus, steps)
    if trainer.is_global_zero:
        config = whole
        if before and not begun.branches:
            lock = before.hold()
            run = RunDir.go_on(path, record(config))
        else:
            run = RunDir.create(path, record(config), corpus.tokenizer.save, corpus.save_held_out)
            lock = run.hold()
        if before and resumed is not None:
            samples_until(before.path / "samples.md", path / "samples.md", resumed)
            console.print(f"going on after step {resumed:,}")
        peak = peak_flops(trainer.strategy.root_device, bf16="bf16" in config.trainer.precision)
        speed.share_per_token = flops / (peak.flops * trainer.world_size)
        report.header(console, config, corpus, parameters, plan, trainer, datamodule, peak)

    train_loss, status = None, "failed"
    try:
        with stops.warned():
            trainer.fit(module, datamodule, ckpt_path=begun.ckpt_path, weights_only=True)
        train_loss = trainer.callback_metrics.get("train/loss")
        val_every = min(config.trainer.val_every_n_steps, trainer.max_steps)
        if trainer.global_step % val_every or "val/loss" not in trainer.callback_metrics:
            trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
            trainer.validate(module, datamodule, verbose=False)  # the end is always measured
        status = "finished"
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        status = "stopped"
        line = (
            f"stopped at step {trainer.global_step}; what was learned is in {path}; go on: gptlab train resume={path}"
        )
        console.print(Text(line), soft_wrap=True)
        raise KeyboardInterrupt from None  # a sweep ends too
    except NotFinite as error:
        todo = f"lower optimizer.lr, or on_nan=skip; what was in it: gptlab replay run={path} step={error.step}"
        raise RunFailed(f"step={error.step}: its gradient is not finite; {todo}") from error
    finally:
        scores = trainer.callback_metrics | ({} if train_loss is None else {"train/loss": train_loss})
        summary = {
            "status": status,
            "parameters": parameters,
            "steps": trainer.global_step,
            "tokens": trainer.global_step * tokens_per_step,
            "flops": trainer.global_step * tokens_per_step * flops,
            "seconds": speed.all_seconds,
            "tokens_per_second": speed.tokens_per_second,
            **{_key(name): _number(scores.get(name)) for name in SCORES},
            "budget": config.budget.fixed(),
            "protocol": protocol(
                model_config.block_size, config.data.packing == "documents", config.data.mask_documents
            ),
            "tokenizer_hash": fingerprint(path / "tokenizer"),
            "data_hash": corpus.manifest["sha256"],
            "seed": seed,
            "name": config.name,
            "run_dir": str(path),
        }
        config.logger.close(status == "finished")
        if trainer.is_global_zero:
            summary = run.write_summary(summary)
            lock.release()
            if stops.why == "SIGUSR1":
                requeue()
    gpt.eval()
    together = config.trainer.sharded  # a sharded model is run by all ranks
    texts = [
        (how, config.sample_prompts[0], samples.continue_(gpt, decoder, 0))
        for how, decoder in (("greedy", Greedy()), (_name(config.decoder), config.decoder))
        if config.sample_prompts and (trainer.is_global_zero or together)
    ]
    if not trainer.is_global_zero:
        return None
    report.ending(console, summary, texts)
    if failure := getattr(trainer.strategy.checkpoint_io, "failure", None):
        todo = f"make room, then: gptlab train resume={path}"
        raise RunFailed(f"checkpoint={path / 'checkpoints'}: cannot be written ({failure}); {todo}")
    return summary


def as_module(config: TrainConfig, gpt: GPT, corpus: Corpus, steps: int) -> GPTModule:
    """What Lightning trains, by the precision, sharding and compilation that are asked for."""
    trainer = config.trainer
    gpt.recompute = trainer.activation_checkpointing
    separator = corpus.tokenizer.eot if config.data.mask_documents else None
    dtype = None if trainer.sharded else trainer.compute_dtype
    objective = Loss(gpt, separator, dtype, chunked=config.loss == "chunked")
    if config.compile:
        needs = "needs a C++ compiler on a CPU"
        found = torch.cuda.is_available() or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
        require(found, "compile", "true", needs, "install g++, or leave it out")
        objective.compile()
    module = (ShardedGPTModule if trainer.sharded else GPTModule)(
        objective,
        config.optimizer,
        config.schedule,
        steps,
        corpus.manifest["val"]["bytes"],
        trainer.gradient_clip_val,
        config.logger.every_n_steps,
        config.seed,
        config.on_nan,
        bytes_per_token(corpus),
    )
    if isinstance(module, ShardedGPTModule):
        module.dtype_of_blocks = trainer.compute_dtype
    return module


def bytes_per_token(corpus: Corpus) -> float:
    """What a training token spells in the mean, by the weights of the sources; of tokens whose text is not known, what
    a held-out one does."""
    parts = [source["train"] for source in corpus.manifest.get("sources", {"": corpus.manifest}).values()]
    if any(part["bytes"] is None for part in parts):
        parts = [corpus.manifest["val"]] * len(parts)
    spelled = [part["bytes"] / part["tokens"] for part in parts]
    return sum(w * each for w, each in zip(corpus.weights, spelled, strict=True)) / sum(corpus.weights)


def swept(run_dir: Path) -> list[str]:
    """The keys that a sweep has chosen for this run: a job's directory is named by them."""
    named = run_dir.name.partition("-")[2] if (run_dir / "job.json").exists() else ""
    return [choice.partition("=")[0] for choice in named.split(",") if choice]


def _key(metric: str) -> str:
    return metric.replace("/", "_")


def _number(value: Any) -> float | None:
    return None if value is None or not torch.isfinite(torch.as_tensor(value)) else float(value)


def _name(decoder: object) -> str:
    fields = ", ".join(f"{k}={v}" for k, v in vars(decoder).items())
    return f"{type(decoder).__name__.lower()} ({fields})" if fields else type(decoder).__name__.lower()


def _quieten() -> None:
    """Lightning's advice that does not fit here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in ADVICE:
        warnings.filterwarnings("ignore", f".*{advice}")
