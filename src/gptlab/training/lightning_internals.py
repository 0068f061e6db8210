"""Hold every private or undocumented name of Lightning that gptlab relies on, one function a promise.

tests/test_contracts.py asserts what each of them takes for granted: raising Lightning's version means running it.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

# warnings whose advice does not fit here
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


def silence_advice() -> None:
    """Keep Lightning's hints off standard error."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for advice in ADVICE:
        warnings.filterwarnings("ignore", f".*{advice}")


def early_rank() -> int:
    """Return this process's rank before there is a Trainer that knows it."""
    return int(rank_zero_only.rank or 0)  # type: ignore[attr-defined]


def publish(trainer: L.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Hand metrics to the loggers by step, without Lightning's `epoch`, and to callbacks by name.

    Lightning's own log_dict takes milliseconds for that. callback_metrics is a live dictionary.
    """
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)


def take_over_validation(trainer: L.Trainer) -> None:
    """Let Lightning never validate by itself: `validate` does, in the order of the end of a step."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop._should_check_val_fx = lambda data_fetcher: False


def leave_signals(trainer: L.Trainer) -> None:
    """Let Lightning take no signal: on SIGTERM it would end a run between any two micro-batches."""
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
    """Change how many optimizer steps a fit has, before the first one."""
    trainer.fit_loop.epoch_loop.max_steps = steps


def set_accumulation(trainer: L.Trainer, micro_batches: int) -> None:
    """Change how many micro-batches a step has, before the first one."""
    trainer.accumulate_grad_batches = micro_batches


def restart_loops_at(trainer: L.Trainer, step: int) -> dict[str, Any]:
    """Return the state of Lightning's loops as if an epoch began at `step`.

    Its own restart inside an epoch repeats batches of the loader and leaves others out; ours begins at any step.
    """
    loops = trainer.fit_loop.state_dict()
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    for progress in (optimizer, loops["epoch_loop.scheduler_progress"]):
        progress["total"] = {"ready": step, "completed": step}
    batches = loops["epoch_loop.batch_progress"]["total"]
    loops["epoch_loop.batch_progress"]["total"] = dict.fromkeys(batches, step * trainer.accumulate_grad_batches)
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    return {"fit_loop": loops}


def grad_scaler(trainer: L.Trainer) -> Any:
    """Return the scaler of 16-mixed; None with any other precision."""
    return getattr(trainer.precision_plugin, "scaler", None)


def unscales_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether gradients are still scaled when they are clipped: fused optimizers unscale them in their step."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def datamodule_of(trainer: L.Trainer) -> Any:
    """Return the data module of a fit."""
    return trainer.datamodule  # type: ignore[attr-defined]


def load_weights_and_optimizer(trainer: L.Trainer, path: Path, read: Callable[[dict[str, Any]], None]) -> int:
    """Take weights and optimizer of a checkpoint in mid-run, and nothing else; returns the step it was made at.

    `read` is given the checkpoint first, and may change what its weights are.
    """
    checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
    read(checkpoint)
    trainer.strategy.load_model_state_dict({"state_dict": checkpoint.get("state_dict", {})})
    trainer.strategy.load_optimizer_state_dict(checkpoint)
    return int(checkpoint["global_step"])


def write_failure(trainer: L.Trainer) -> str | None:
    """Say why the last checkpoint could not be written; None if it was."""
    return getattr(trainer.strategy.checkpoint_io, "failure", None)
