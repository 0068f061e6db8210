"""A training run, top to bottom."""

import dataclasses
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.text import Text

from gptlab.config import SCORES, TrainConfig, record
from gptlab.data.datamodule import TextDataModule
from gptlab.data.prepare import prepare
from gptlab.decoding.decoders import Greedy
from gptlab.errors import UserError, require
from gptlab.model.gpt import GPT, num_params
from gptlab.planning.flops import flops_per_token
from gptlab.progress import watching
from gptlab.rundir import RunDir
from gptlab.tokenizer_options import Saved
from gptlab.training import report
from gptlab.training.callbacks import ProgressBar, Samples, SaveWhenStopped, Speed, checkpoints
from gptlab.training.module import GPTModule
from gptlab.training.ranks import SameConfig
from gptlab.training.resume import checkpoint_of, require_same, samples_until


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train as asked; returns what summary.json holds, or None in a process that is not rank 0."""
    _quieten()
    console = Console(quiet=rank_zero_only.rank != 0)  # type: ignore[attr-defined]
    before = RunDir.find(config.resume) if config.resume else None
    ckpt_path, resumed = checkpoint_of(before) if before else (None, None)
    start_from = RunDir.find(config.init_from) if config.init_from and not before else None
    tokenizer = Saved(str(start_from.path / "tokenizer")) if start_from else config.tokenizer
    with watching(console) as watch:
        corpus = prepare(config.data, tokenizer, watch)
    loaded = start_from.load()[0].train() if start_from else None
    model_config = loaded.config if loaded else with_vocabulary(config, corpus.tokenizer.n_vocab)
    whole = dataclasses.replace(config, model=model_config, tokenizer=tokenizer)
    if before:
        require_same(before.config(), plain(record(whole)))
    seed, path = config.seed, Path(config.run_dir)
    datamodule = TextDataModule(corpus, config.data, model_config.block_size, seed)

    tokens_per_step = config.data.batch_size * model_config.block_size
    with torch.device("meta"):
        parameters = num_params(GPT(model_config))
    flops = flops_per_token(model_config)
    plan = config.budget.plan(tokens_per_step, datamodule.tokens_per_epoch, parameters, flops)
    steps = plan.steps
    why, todo = f"has its {steps:,} steps already", "lengthen it, e.g. budget.steps=" + str(2 * steps)
    ended = before is not None and before.status() == "finished"  # not so, if it was killed at the very end
    require(resumed is None or resumed < steps or not ended, "resume", config.resume, why, todo)
    speed = Speed(tokens_per_step, lambda: datamodule.seconds_waited)
    samples = Samples(path, config.sample_prompts, corpus.tokenizer, config.decoder, seed)
    callbacks = [
        SameConfig(record(whole)),
        *checkpoints(path / "checkpoints", config.checkpoint.every_n_steps),
        samples,
        ProgressBar(console, steps, config.trainer.enable_progress_bar),
        SaveWhenStopped(path / "checkpoints/last.ckpt"),
        speed,
    ]
    trainer = config.trainer.build(steps, config.logger.build(path, resumed), callbacks, path)
    micro_batch_size, accumulate = micro_batches(
        config.data.batch_size, config.data.micro_batch_size, trainer.world_size
    )
    trainer.accumulate_grad_batches = accumulate
    val_every = min(config.trainer.val_every_n_steps, steps)
    trainer.val_check_interval = val_every * accumulate
    datamodule.steps, datamodule.micro_batch_size = steps, micro_batch_size

    L.seed_everything(seed, verbose=False)
    gpt = loaded or GPT(model_config)  # only now: mistakes above must not wait for a large one
    module = GPTModule(
        gpt,
        config.optimizer,
        config.schedule,
        steps,
        corpus.manifest["val"]["bytes"],
        config.trainer.gradient_clip_val,
        config.logger.every_n_steps,
        seed,
        corpus.tokenizer.eot if config.data.mask_documents else None,
    )
    if trainer.is_global_zero:
        config = whole
        if resumed is not None:
            run = RunDir.go_on(path, record(config))
            samples_until(path / "samples.md", resumed)
            console.print(f"going on after step {resumed:,}")
        else:
            run = RunDir.create(path, record(config), corpus)
        report.header(console, config, corpus, parameters, plan, trainer, datamodule)

    start, train_loss, status = time.perf_counter(), None, "failed"
    try:
        trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True)
        train_loss = trainer.callback_metrics.get("train/loss")
        if trainer.global_step % val_every or "val/loss" not in trainer.callback_metrics:
            trainer.validate(module, datamodule, verbose=False)  # the end is always measured
        trainer.save_checkpoint(path / "checkpoints/last.ckpt")
        status = "finished"
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        status = "stopped"
        line = (
            f"stopped at step {trainer.global_step}; what was learned is in {path}; go on: gptlab train resume={path}"
        )
        console.print(Text(line), soft_wrap=True)
        raise KeyboardInterrupt from None  # a sweep ends too
    finally:
        scores = trainer.callback_metrics | ({} if train_loss is None else {"train/loss": train_loss})
        summary = {
            "status": status,
            "parameters": parameters,
            "steps": trainer.global_step,
            "tokens": trainer.global_step * tokens_per_step,
            "flops": trainer.global_step * tokens_per_step * flops,
            "seconds": time.perf_counter() - start,
            "tokens_per_second": speed.tokens_per_second,
            **{_key(name): _number(scores.get(name)) for name in SCORES},
            "data_hash": corpus.manifest["sha256"],
            "seed": seed,
            "name": config.name,
            "run_dir": str(path),
        }
        if trainer.is_global_zero:
            run.write_summary(summary)
    if not trainer.is_global_zero:
        return None
    gpt.eval()
    texts = [
        (how, config.sample_prompts[0], samples.continue_(gpt, decoder, 0))
        for how, decoder in (("greedy", Greedy()), (_name(config.decoder), config.decoder))
        if config.sample_prompts
    ]
    report.ending(console, summary, texts)
    return summary


def with_vocabulary(config: TrainConfig, n_vocab: int) -> Any:
    """The model's config with as many tokens as the tokenizer has."""
    asked = config.model.vocab_size
    require(asked in (0, n_vocab), "model.vocab_size", asked, f"but the tokenizer has {n_vocab} tokens", "leave it out")
    return dataclasses.replace(config.model, vocab_size=n_vocab)


def micro_batches(batch_size: int, micro_batch_size: int | None, world_size: int) -> tuple[int, int]:
    """(sequences per forward pass, forward passes per step) of one device, for one global batch over all of them."""
    if micro_batch_size is None:
        if batch_size % world_size == 0:
            return batch_size // world_size, 1
        micro_batch_size = 1
    per_pass = micro_batch_size * world_size
    if batch_size % per_pass:
        below, above = batch_size // per_pass * per_pass, -(-batch_size // per_pass) * per_pass
        nearest = " or ".join(str(n) for n in (below, above) if n)
        raise UserError(
            "data.batch_size",
            batch_size,
            f"is not a multiple of {micro_batch_size} sequences on each of {world_size} device(s)",
            f"choose {nearest}",
        )
    return micro_batch_size, batch_size // per_pass


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """As YAML has it."""
    import yaml

    read: dict[str, Any] = yaml.safe_load(yaml.safe_dump(values))
    return read


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
    for advice in ("does not have many workers", "exists and is not empty", "treespec, LeafSpec"):
        warnings.filterwarnings("ignore", f".*{advice}")
