"""Wrap every private or undocumented name of Lightning that gptlab relies on, one function for each.

tests/test_contracts.py asserts what is assumed of each of them: run it when Lightning's version is raised.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from lightning.pytorch.profilers import PyTorchProfiler
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.migration.utils import _pl_migrate_checkpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from gptlab.distributed.sharding import load_whole_optimizer_state, load_whole_weights
from gptlab.metrics import tensorboard_tag

# warnings whose advice does not apply here
ADVICE = (
    "does not have many workers",
    "treespec, LeafSpec",
    "The `srun` command is available",
    "You're resuming from a checkpoint that ended before the epoch ended",
    "Total length of .* across ranks is zero",
)
# errors of Trainer's constructor for missing hardware: reported in one line, without a traceback
TRAINER_MISTAKES = (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError)


def silence_advice() -> None:
    """Suppress Lightning's hints on standard error."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in ADVICE:
        warnings.filterwarnings("ignore", f".*{advice}")


def early_rank() -> int:
    """Return this process's rank before there is a Trainer that knows it."""
    return int(rank_zero_only.rank or 0)  # type: ignore[attr-defined]


def publish(trainer: L.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Send metrics to the loggers by step, without Lightning's `epoch`, and to callbacks by name.

    Lightning's own log_dict takes milliseconds for that. callback_metrics is a live dictionary.
    """
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)


def take_over_validation(trainer: L.Trainer) -> None:
    """Keep Lightning from validating by itself: `validate` does so in the order of the end of a step."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop._should_check_val_fx = lambda data_fetcher: False


def leave_signals(trainer: L.Trainer) -> None:
    """Keep Lightning from handling signals: on SIGTERM it would end a run between any two micro-batches."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def validate(trainer: L.Trainer) -> None:
    """Run Lightning's validation loop in the middle of a fit, with all hooks that it calls."""
    connector = trainer._logger_connector
    first = connector._first_loop_iter
    trainer.validating = True
    try:
        trainer.fit_loop.epoch_loop.val_loop.run()
    finally:
        trainer.training = True
        connector._first_loop_iter = first


def set_steps(trainer: L.Trainer, steps: int) -> None:
    """Change the number of optimizer steps of a fit, before the first one."""
    trainer.fit_loop.epoch_loop.max_steps = steps


def set_accumulation(trainer: L.Trainer, micro_batches: int) -> None:
    """Change the number of micro-batches of a step, before the first one or at the end of any.

    Lightning takes a step at each multiple of it, and counts from the first batch of an epoch: counted from here on.
    """
    trainer.accumulate_grad_batches = micro_batches
    count: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    done = count.processed
    for name in ("ready", "started", "processed", "completed"):
        setattr(count, name, getattr(count, name) - done)


def restart_loops_at(trainer: L.Trainer, step: int, micro_batches: int) -> dict[str, Any]:
    """Return the state of Lightning's loops as if an epoch began at `step`, after so many micro-batches.

    Its own restart inside an epoch repeats batches of the loader and leaves others out; ours begins at any step.
    """
    loops = trainer.fit_loop.state_dict()
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    for progress in (optimizer, loops["epoch_loop.scheduler_progress"]):
        progress["total"] = {"ready": step, "completed": step}
    batches = loops["epoch_loop.batch_progress"]["total"]
    loops["epoch_loop.batch_progress"]["total"] = dict.fromkeys(batches, micro_batches)
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    return {"fit_loop": loops}


def device_of(trainer: L.Trainer) -> torch.device:
    """Return the device of this process, which is known as soon as there is a Trainer."""
    return trainer.strategy.root_device


def reduced(trainer: L.Trainer, values: Tensor, how: str) -> Tensor:
    """Return the `sum` or `mean` of values over all ranks, elementwise: figures are exact over all of the text."""
    found: Tensor = trainer.strategy.reduce(values, reduce_op=how)
    return found


def all_agree(trainer: L.Trainer, flag: bool) -> bool:
    """Return whether all ranks agree, already in `setup`: a micro-batch size must fit on all devices."""
    return trainer.strategy.reduce_boolean_decision(flag, all=True)


def from_rank_0(trainer: L.Trainer, value: Any) -> Any:
    """Return rank 0's value: all ranks must know the same best checkpoint."""
    return trainer.strategy.broadcast(value)


def autocast(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Compute in the run's precision outside of Lightning's loop, already in `setup`."""
    return trainer.precision_plugin.forward_context()


def backward(trainer: L.Trainer, batch: Any, last: bool) -> None:
    """Run forward and backward pass of one micro-batch outside of Lightning's loop, on_fit_start or later.

    Ranks average their gradients with the `last` micro-batch of a step, so that a step takes as long as in the loop.
    """
    strategy: Any = trainer.strategy
    alone = not last and isinstance(strategy, ParallelStrategy)
    with strategy.block_backward_sync() if alone else contextlib.nullcontext():
        loss: Any = strategy.training_step(strategy.batch_to_device(batch), 0)
        loss.backward()


def same_random_numbers() -> AbstractContextManager[None]:
    """Restore the random state after the context: the timing of steps is undone."""
    return isolate_rng()


def sharded_strategy() -> Strategy:
    """Return the strategy that shards a model (experimental) and saves it in one file, so that any command reads it.

    Lightning's own reads the optimizer's state by the numbers of its parameters in the model, which are not those that
    one device saves; ours continues from any checkpoint. It takes a model's trained weights, never their average.
    """

    class Sharded(ModelParallelStrategy):
        """Lightning's strategy, but for how it loads a checkpoint."""

        def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
            checkpoint: dict[str, Any] = torch.load(checkpoint_path, "cpu", weights_only=True, mmap=True)
            weights, module = checkpoint.pop("state_dict"), self.lightning_module
            assert module is not None
            whole = "adapter" not in checkpoint
            load_whole_weights(module, checkpoint.pop("current_model_state", weights), whole)
            for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
                load_whole_optimizer_state(module, optimizer, state)
            return checkpoint

    return Sharded(save_distributed_checkpoint=False)


def is_sharded(trainer: L.Trainer) -> bool:
    """Return whether a model is sharded: then all ranks must run it together."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def profiler(folder: Path) -> PyTorchProfiler:
    """Return a profiler of micro-batches 4 to 6 alone: the first ones are not like those that follow.

    Lightning's own counts validation batches too, and refuses to sort by the time of an operator itself.
    """

    class Operators(PyTorchProfiler):
        STEP_FUNCTIONS: Any = {"training_step"}  # noqa: RUF012
        AVAILABLE_SORT_KEYS: Any = {"self_cpu_time_total", "self_cuda_time_total"}  # noqa: RUF012

    slowest = f"self_{'cuda' if torch.cuda.is_available() else 'cpu'}_time_total"
    schedule = torch.profiler.schedule(wait=2, warmup=1, active=3, repeat=1)
    return Operators(folder, "operators", schedule=schedule, sort_by_key=slowest, row_limit=30)


def tensorboard_logger(run_dir: Path, first_step: int | None) -> TensorBoardLogger:
    """Return a logger that writes only events, right in the run directory: config.yaml has the config.

    Metrics have their names in TensorBoard (`gptlab.metrics.tensorboard_tag`).

    When a run is resumed, its earlier events from `first_step` on are dropped.
    """

    class Events(TensorBoardLogger):
        """A logger of events alone, with the names of TensorBoard."""

        def save(self) -> None:
            self.experiment.flush()

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            super().log_metrics({tensorboard_tag(name): value for name, value in metrics.items()}, step)

    return Events(run_dir, name="", version="", default_hp_metric=False, purge_step=first_step)


def mlflow_logger(experiment: str, title: str, uri: str, run_id: str | None) -> MLFlowLogger:
    """Return a logger of a new run of MLflow, or of that of a resumed run, which has its parameters already."""

    class Known(MLFlowLogger):
        def log_hyperparams(self, params: Any) -> None:
            if run_id is None:  # MLflow does not allow changes
                super().log_hyperparams(params)

    return Known(experiment, title, uri, run_id=run_id)


def grad_scaler(trainer: L.Trainer) -> Any:
    """Return the scaler of 16-mixed; None with any other precision."""
    return getattr(trainer.precision_plugin, "scaler", None)


def unscales_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether gradients are still scaled when they are clipped: fused optimizers unscale them in their step."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def datamodule_of(trainer: L.Trainer) -> Any:
    """Return the data module of a fit."""
    return trainer.datamodule  # type: ignore[attr-defined]


def load_weights_and_optimizer(trainer: L.Trainer, path: Path, read: Callable[[dict[str, Any]], None]) -> int:
    """Load weights and optimizer of a checkpoint in mid-run, and nothing else; returns its step.

    `read` is given the checkpoint first, and may change its weights.
    """
    checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
    read(checkpoint)
    trainer.strategy.load_model_state_dict({"state_dict": checkpoint.get("state_dict", {})})
    trainer.strategy.load_optimizer_state_dict(checkpoint)
    return int(checkpoint["global_step"])


def migrated(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a checkpoint as Lightning's present version has it; what it raises for one that it cannot read is its own.

    The given one is left as it is, but for what is within its values.
    """
    return dict(_pl_migrate_checkpoint(dict(checkpoint), path))


def named_states(trainer: L.Trainer) -> dict[str, dict[str, Any]]:
    """Return the state of each part of Lightning's that a checkpoint has under the name of its class: the scaler."""
    plugin = trainer.precision_plugin
    state = plugin.state_dict()
    return {type(plugin).__qualname__: state} if state else {}


def write_failure(trainer: L.Trainer) -> str | None:
    """Return the reason why the last checkpoint could not be written; None if it was."""
    return getattr(trainer.strategy.checkpoint_io, "failure", None)
