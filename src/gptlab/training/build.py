"""Build all parts of a run from its start; no files are written."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from rich.console import Console

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches.build import Data
from gptlab.data.batches.examples import ExampleDataModule
from gptlab.distributed.ranks import Ranks
from gptlab.errors import UserError, reason, require
from gptlab.model.adapters import adapt
from gptlab.model.config import build_model
from gptlab.model.gpt import num_frozen, num_params
from gptlab.model.heads import trunk_of
from gptlab.model.meta_device import on_meta
from gptlab.planning.flops import flops_per_token
from gptlab.runs.adapted import adapt_with, weights_sha256
from gptlab.runs.config_file import record
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Reading, needs_reference
from gptlab.tasks.inputs import Part
from gptlab.training.adapted import Adapted, freeze_in
from gptlab.training.averaging import WeightAverage, begin_of_tail
from gptlab.training.branches import branch_off, partings
from gptlab.training.budget import Budget, Plan
from gptlab.training.callbacks.batch_size_finder import BatchSizeFinder, micro_batch, use_micro_batches
from gptlab.training.callbacks.checkpointing import Checkpoints
from gptlab.training.callbacks.config_check import ConfigCheck
from gptlab.training.callbacks.end_of_step import EndOfStep
from gptlab.training.callbacks.energy_monitor import EnergyMonitor
from gptlab.training.callbacks.graceful_stop import GracefulStop
from gptlab.training.callbacks.pictures import Pictures
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.reference import Reference
from gptlab.training.callbacks.samples import Samples
from gptlab.training.callbacks.stability_monitor import StabilityMonitor
from gptlab.training.callbacks.step_timer import StepTimer
from gptlab.training.callbacks.tensorboard import TensorBoardLayout
from gptlab.training.callbacks.throughput_monitor import ThroughputMonitor
from gptlab.training.config import TrainConfig
from gptlab.training.energy import counters
from gptlab.training.lightning_internals import device_of, leave_signals, take_over_validation
from gptlab.training.loss import Loss
from gptlab.training.memory import keep_freed_pages, require_memory
from gptlab.training.module import GPTModule
from gptlab.training.precision import compute_dtype, require_precision
from gptlab.training.remaining_time import RemainingTime
from gptlab.training.requirements import require_abilities
from gptlab.training.start import Start


@dataclass
class Parts:
    """The parts of a run that is about to be trained."""

    datamodule: Any
    module: GPTModule
    trainer: L.Trainer
    end_of_step: EndOfStep
    plan: Plan | None  # None until a step is timed
    parameters: int
    flops_per_token: int
    energy: EnergyMonitor
    trained: int | None = None  # of the parameters, and those that an adapter adds; None: all


def build(begun: Start, console: Console) -> Parts:
    """Build data module, model, callbacks and trainer; raises UserError for mistakes about devices and precision."""
    config, datamodule = begun.config, begun.data.module
    parameters, trained, frozen = count_parameters(config)
    require_memory(parameters)
    flops = flops_per_token(config.model, parameters=parameters) - 2 * frozen
    sizes = (datamodule.tokens_per_step, datamodule.tokens_per_epoch, parameters, flops, datamodule.batch_sizes)
    plan = config.budget.plan(*sizes)
    if plan:
        branch_off(begun, plan.steps)
        begun.require_steps_left(plan)
    steps = plan.steps if plan else max(1, begun.step)  # provisional until steps are timed
    kept = partings(config, steps, lambda budget: budget.plan(*sizes))

    ranks = Ranks()
    throughput = ThroughputMonitor(lambda: datamodule.seconds_waited)
    end_of_step = _end_of_step(begun, throughput, ranks, console, kept)
    energy = EnergyMonitor(lambda trainer: counters(device_of(trainer), trainer.device_ids))
    callbacks = [
        ConfigCheck(record(config)),
        throughput,
        energy,
        TensorBoardLayout(
            record(config), record(TrainConfig()), config.search_metric or config.task.better, begun.run_dir
        ),
        Pictures(begun.run_dir),
        *config.callbacks.build(),
        end_of_step.stability,
        end_of_step.bar,
        end_of_step.stop,
        *([_reference(begun, end_of_step.bar)] if needs_reference(config.task) else []),
        *([BatchSizeFinder(end_of_step.bar)] if config.data.micro_batch_size == "auto" else []),
        *([] if plan else [StepTimer(_timed(config, sizes), begun.step, ranks, end_of_step.bar)]),
        end_of_step,
    ]
    trainer = config.trainer.build(steps, callbacks, begun.run_dir)
    take_over_validation(trainer)
    leave_signals(trainer)
    datamodule.steps = steps
    asked = config.data.micro_batch_size
    size = micro_batch(datamodule.batch_sizes, None if asked == "auto" else asked, trainer.world_size)
    use_micro_batches(trainer, datamodule, size)

    device = device_of(trainer)
    require_precision(config.trainer.precision, device)
    if config.compile:
        require_compiler()
    if device.type == "cpu":
        keep_freed_pages()
    L.seed_everything(config.seed, verbose=False)
    model, adapted = _model(begun, console)  # last: mistakes must not wait for it
    module = as_module(config, model, begun.data, steps, adapted)
    return Parts(
        datamodule, module, trainer, end_of_step, plan, parameters, flops, energy, trained if adapted else None
    )


def _model(begun: Start, console: Console) -> tuple[Any, Adapted | None]:
    """Return the model with the head of its task: a new one, or one with the weights of the run that it begins with.

    The latter may have an adapter.
    """
    if begun.initial is None:
        return begun.config.task.head(build_model(begun.config.model)), None
    adapter = begun.config.adapter
    base = begun.initial.base() if adapter else None
    model, new = begun.initial.with_head(begun.config.task)
    if new:
        names = ", ".join(new[:4]) + (f" and {len(new) - 4} more" if len(new) > 4 else "")
        line = f"init_from={begun.config.init_from}: it has no weights for the head of this task; new: {names}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return model, Adapted(adapter, base, adapt_with(model, adapter, new)) if adapter and base else None


def _reference(begun: Start, bar: ProgressBar) -> Reference:
    """Return the callback that asks the model which a run begins with, unless a checkpoint has its answers."""
    sha256 = weights_sha256(begun.initial.gpt.state_dict()) if begun.initial else None
    return Reference(begun.data, begun.config.seed, sha256, bar)


def _end_of_step(
    begun: Start, throughput: ThroughputMonitor, ranks: Ranks, console: Console, kept: set[int]
) -> EndOfStep:
    config, run_dir, tokenizer, every = begun.config, begun.run_dir, begun.data.tokenizer, begun.config.checkpoint
    folder, before = run_dir / "checkpoints", begun.resumed_from
    checkpoints = Checkpoints(folder, every.every_n_steps, every.every_n_minutes, every.keep_last, ranks, kept)
    last, trainer = checkpoints.last_regular, config.trainer
    sequences = begun.data.module.batch_sizes.start
    # of as many steps as it comes to have
    remaining = RemainingTime(0, trainer.val_every_n_steps, every.every_n_steps, sequences)
    stop = GracefulStop(ranks, trainer.max_minutes)
    sigmas = config.spike_sigmas if config.task.predicts_tokens else 0.0  # the loss of a few labels jumps all the time
    return EndOfStep(
        throughput,
        StabilityMonitor(run_dir, tokenizer, config.on_nan, sigmas, console, last),
        Samples(run_dir, config.task, config.sample_prompts or [], tokenizer, config.decoder, config.seed),
        checkpoints,
        ProgressBar(console, trainer.enable_progress_bar, remaining, stop.deadline),
        stop,
        trainer.val_every_n_steps,
        goes_on_after_end=before is not None and (not begun.in_place or before.status() == "finished"),
        val_at_start=config.trainer.val_at_start,
    )


def _timed(config: TrainConfig, sizes: tuple[float, int | None, int, int, BatchSizes]) -> Callable[[float, bool], Plan]:
    """Return a function from the seconds of a step to a plan, which also records them for a resumed or repeated run."""

    def timed(seconds_per_step: float, writes: bool) -> Plan:
        budget: Budget = dataclasses.replace(config.budget, seconds_per_step=seconds_per_step)
        plan = budget.plan(*sizes)
        assert plan is not None
        if writes:
            run = RunDir(config.path)
            run.write_config(record(dataclasses.replace(config, budget=budget)))
            run.begin(plan.steps)
        return plan

    return timed


def as_module(config: TrainConfig, model: Any, data: Data, steps: int, adapted: Adapted | None) -> GPTModule:
    """Return what Lightning trains, by the precision, sharding and compilation that are asked for.

    `model` has the head of the task, and perhaps an adapter.
    """
    trainer = config.trainer
    reading = Reading(data.module.separator, config.loss == "chunked")
    dtype = compute_dtype(trainer.precision)
    gpt: Any = trunk_of(model)
    require_abilities(config, gpt, reading.separator is not None)
    gpt.recompute = trainer.activation_checkpointing
    optimizer = config.optimizer
    if adapted:
        optimizer = dataclasses.replace(optimizer, lr=optimizer.lr * adapted.adapter.lr_ratio)  # type: ignore[type-var]
        if dtype:
            freeze_in(model, dtype)
    rounded = None if trainer.sharded else dtype
    loss = Loss(config.task, model, reading, rounded)
    parts: Iterable[Part] = data.module.val_parts.values() if isinstance(data.module, ExampleDataModule) else ()
    if config.compile:
        loss.compile()
    return GPTModule(
        loss,
        optimizer,
        config.schedule,
        steps,
        data.corpus.val_bytes if data.corpus and not data.corpus.unspelled["val"] else None,
        trainer.gradient_clip_val,
        config.logger.every_n_steps,
        config.seed,
        config.on_nan,
        data.corpus.bytes_per_target if data.corpus and not data.corpus.unspelled["train"] else None,
        WeightAverage(config.ema, begin_of_tail(config.tail_average, steps)),
        sharded=trainer.sharded,
        shard_dtype=dtype,
        adapted=adapted,
        part_losses=[Loss(part.task, model, part.reading, rounded) for part in parts],
        batch_size=config.data.batch_size,
    )


def count_parameters(config: TrainConfig) -> tuple[int, int, int]:
    """Count the numbers of a config's model with its task's head, where possible without memory.

    Returns all of them without an adapter's; those that are trained; and those in linear layers that are not, which
    cost no gradient, 2 operations each.
    """

    def count() -> tuple[int, int, int]:
        model = config.task.head(build_model(config.model))
        every = num_params(model)
        if config.adapter is None:
            return every, every, 0
        adapt(model, config.adapter)
        return every, num_params(model), num_frozen(model)

    try:
        with on_meta():
            return count()
    except RuntimeError:  # a model that computes with its weights when it is made, or is beyond what can be counted
        pass
    try:
        return count()
    except RuntimeError as error:
        raise UserError("model", type(config.model).__name__, reason(error), "choose a smaller one") from error


def require_compiler() -> None:
    """Refuse `compile` on a machine without a compiler."""
    found = torch.cuda.is_available() or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    require(found, "compile", "true", "needs a C++ compiler on a CPU", "install g++, or leave it out")
