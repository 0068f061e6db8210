"""Measure the parts of a training step, and what changes of its config give."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from rich.console import Console

from gptlab.commands.bench_inference import DeviceLimits, spread
from gptlab.planning.advice import Findings, Stepping, training_advice
from gptlab.registry import name_of
from gptlab.training.config import TrainConfig
from gptlab.training.peak_flops import published_peak
from gptlab.training.start import Start
from gptlab.training.step_parts import PARTS
from gptlab.training.timing import TimeIsUp, TrainingSpeed, ended_after, num_devices, time_training
from gptlab.training.trials import try_changes


def measure_training(
    asked: TrainConfig, begun: Start, limits: DeviceLimits, seconds: float, until: float, trials: bool, console: Console
) -> Findings | None:
    """Time steps for about `seconds`, then with each change that may help, up to the time `until`.

    Returns None where not one step could be timed by then. `asked` is the config as it was given, `begun` the start of
    a run for timing; time.perf_counter gives the time.
    """
    console.print("timing training steps", highlight=False)
    speed = None
    with contextlib.suppress(TimeIsUp), ended_after(until - time.perf_counter()):
        speed = time_training(begun, seconds, console)
    if speed is None:
        return None
    tried = try_changes(begun, speed, until, console) if trials else []
    step = Stepping(
        speed.parts,
        speed.log_seconds,
        speed.log_every,
        asked.data.batch_size,
        speed.micro_batches,
        speed.micro_batch_size,
        getattr(asked.data, "num_workers", None),
    )
    advice = training_advice(step, tried)
    return Findings(_figures(asked, begun.config, speed, limits), tried, advice)


def _figures(asked: TrainConfig, config: TrainConfig, speed: TrainingSpeed, limits: DeviceLimits) -> dict[str, Any]:
    rate, kind = speed.tokens_per_second, number_kind(config.trainer.precision)
    low, _, high = spread(speed.step_seconds)
    known = speed.device.type == limits.device  # else that of a device that is not measured
    share = rate * speed.flops_per_token / limits.flops[kind] if known else None
    sheet = published_peak(speed.device, bf16=kind == "bf16")
    return {
        "precision": config.trainer.precision,
        "compile": config.compile,
        "steps": len(speed.steps),
        "batch_size": config.data.batch_size,
        "micro_batches": speed.micro_batches,
        "micro_batch_size": speed.micro_batch_size,
        "tokens_per_step": sum(step.tokens for step in speed.steps) / len(speed.steps),
        "tokens_per_second": rate,
        "seconds_per_step": speed.seconds_per_step,
        "seconds_per_step_low": low,
        "seconds_per_step_high": high,
        **{f"{part}_seconds": speed.mean(part) for part in PARTS},
        "log_seconds": speed.log_seconds,
        "flops_per_token": speed.flops_per_token,
        "share_of_peak": share,
        "mfu": rate * speed.flops_per_token / sheet.flops if sheet else share,
        "mfu_is_of": sheet.source if sheet else "the best product here",
        "notes": _notes(asked, config, speed),
    }


def _notes(asked: TrainConfig, config: TrainConfig, speed: TrainingSpeed) -> list[str]:
    """Return what has to be known to read the parts."""
    devices, found = num_devices(asked), list[str]()
    if config.compile:
        found.append(
            "compiled: torch moves work between the forward and the backward pass, so that only their sum says how "
            "long either would take"
        )
    if config.trainer.activation_checkpointing:
        found.append("the backward pass computes the blocks once more (trainer.activation_checkpointing)")
    if devices > 1:
        found.append(f"one of {devices} devices, with its share of the batch; their communication is not measured")
    if asked.batch_sizes.stages[1:]:
        found.append("steps of the first size of schedule.batch")
    if asked.init_from and not asked.adapter:
        found.append(f"of a new run that begins with this model, on data={name_of(asked.data)}")
    if speed.free:
        parts = 1000 * sum(speed.parts.values())
        found.append(
            f"the parts were timed by waiting for the device after each of them, {parts:.2f} ms together; the step and "
            "its speed are without that"
        )
    return found


def number_kind(precision: str) -> str:
    """Return the numbers that a precision of the trainer multiplies: bf16, fp16 or fp32."""
    return "bf16" if "bf16" in precision else "fp16" if precision.startswith("16") else "fp32"
