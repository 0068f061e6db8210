"""The verb `bench`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptlab.errors import require, require_choice
from gptlab.registry import command, name_of
from gptlab.training.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from gptlab.commands.bench_inference import DeviceLimits
    from gptlab.planning.advice import Advice, Findings, Trial
    from gptlab.runs.run_dir import RunDir
    from gptlab.training.start import Start

LEAST_SECONDS = 5
INFERENCE, STEPS = 0.4, 0.1  # of the time: the end of inference, and how long steps are timed
KINDS = ("training", "inference")


@dataclass
class BenchConfig(TrainConfig):
    """Measure how fast a config trains and decodes on this machine, what limits it, and what to change first."""

    run: str | None = None  # a run, one of its checkpoints, a Hugging Face directory, or latest; null: a new model
    seconds: float = 75  # at most so long, from when the data are ready
    batches: list[int] = field(default_factory=lambda: [1, 8, 32])  # texts that are decoded at once
    # tokens of prompts; none: an eighth, a half and all of the context
    prompts: list[int] = field(default_factory=list)
    only: str | None = None  # training | inference: measure that alone; null: both
    trials: bool = True  # try changes such as compile=true in the time that is left

    def __post_init__(self) -> None:
        why, todo = f"is too short to time a step; {LEAST_SECONDS} is the least", "leave it out, or try 75"
        require(self.seconds >= LEAST_SECONDS, "seconds", self.seconds, why, todo)
        if self.only is not None:
            require_choice("only", self.only, KINDS)
        require(bool(self.batches), "batches", self.batches, "is empty", "try [1,8,32]")
        for key in ("batches", "prompts"):
            low = all(each >= 1 for each in getattr(self, key))
            require(low, key, getattr(self, key), "are not from 1 up", "give sizes such as [1,8]")
        super().__post_init__()


@command
def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure how fast a model trains and decodes on this machine.

    Takes the config of `train`, or of a run, and writes nothing. Prints and returns the speed of decoding and of
    prompts, the parts of a training step, which share of what the device can do that is, and what to change first.
    """
    from rich.console import Console

    from gptlab.interop.hub_directory import run_of
    from gptlab.training.preflight import require_devices, require_possible
    from gptlab.training.waiting import waiting

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before this command makes any
    trains = config.only != "inference"
    named = {key: value for key in ("run", "init_from") if (value := getattr(config, key))}
    source = next((run_of(key, value) for key, value in named.items()), None)
    if trains or source is None:
        require_possible(config)
    else:
        require_devices(config.trainer)
    reads = _reads(config, source)
    if config.run and source and not config.init_from:
        _require_model_of(source, config)
    console = Console(stderr=True)
    with waiting(console, "loading torch"):
        from gptlab.commands.bench_tables import show
        from gptlab.training.timing import passing_start

    with contextlib.ExitStack() as stack:
        begun = stack.enter_context(passing_start(config, console)) if trains or source is None else None
        answer = _measured(config, source, begun, reads, console) | {"load_average": load}
    show(answer)
    return answer


def _reads(config: BenchConfig, source: RunDir | None) -> bool:
    """Return whether inference is measured; refuses a task that predicts no tokens, and prompts that are too long."""
    from gptlab.tasks.saved import task_of

    task = task_of(source.config()) if source and config.run else config.task
    if not task.predicts_tokens or config.only == "training":
        why, todo = f"its task, {name_of(task)}, does not predict the next token", "leave it out"
        require(config.only != "inference", "only", config.only, why, todo)
        return False
    block_size = int(source.config()["model"]["block_size"]) if source else config.model.block_size
    for length in config.prompts:
        why = f"is longer than the context of {block_size}"
        require(length <= block_size, "prompts", length, why, f"give at most {block_size}")
    return True


def _require_model_of(run: RunDir, config: BenchConfig) -> None:
    """Refuse another model than that of the run that is named, whose weights are read."""
    own = run.config().get("model", {})
    for key, value in vars(config.model).items():
        why, todo = f"is {own.get(key)} in {config.run}", "leave it out, or measure a new model without run="
        require(own.get(key, value) == value, f"model.{key}", value, why, todo)


def _measured(
    config: BenchConfig, source: RunDir | None, begun: Start | None, reads: bool, console: Console
) -> dict[str, Any]:
    """Measure the device, inference and training, in this order, and return the answer."""
    import torch

    from gptlab.commands.bench_inference import measure_inference
    from gptlab.commands.bench_training import measure_training
    from gptlab.distributed.devices import may_be_gpu
    from gptlab.training.precision import chosen_precision, require_precision
    from gptlab.training.timing import TimeIsUp, ended_after

    start = time.perf_counter()
    until = start + config.seconds
    on_gpu = torch.cuda.is_available() and may_be_gpu(config.trainer.accelerator)
    device = torch.device("cuda" if on_gpu else "cpu")
    precision = chosen_precision(config.trainer.precision, config.trainer.accelerator)
    require_precision(precision, device)
    console.print("measuring the device", highlight=False)
    limits = _limits(device, precision)
    found: dict[str, Findings | None] = {}
    trains = begun is not None and config.only != "inference"
    if reads:
        kind = "bf16-true" if "bf16" in precision else "32-true"
        end = start + config.seconds * (INFERENCE if trains else 1)
        found["inference"] = None
        with contextlib.suppress(TimeIsUp), ended_after(until - time.perf_counter()):
            found["inference"] = measure_inference(
                _builder(source, begun), kind, config.batches, config.prompts, limits, end, console
            )
    if trains and begun:
        seconds = STEPS * config.seconds
        found["training"] = measure_training(config, begun, limits, seconds, until, config.trials, console)
    measured = {of: each for of, each in found.items() if each is not None}
    return {
        "run": str(source.path) if source and config.run else None,
        "model": (source.title() if source else config.preset) or name_of(config.model),
        **_machine(device),
        "precision": precision,
        "bandwidth_bytes_per_second": limits.bandwidth,
        "peak_flops_per_second": limits.flops,
        "training": None,
        "inference": None,
        **{of: each.figures for of, each in measured.items()},
        "not_measured": sorted(found.keys() - measured.keys()),
        "tried": [_row(of, trial) for of, each in measured.items() for trial in each.tried],
        "change_first": [_row(of, change) for of, each in measured.items() for change in each.advice],
        "seconds": time.perf_counter() - start,
    }


def _row(of: str, found: Advice | Trial) -> dict[str, Any]:
    return {"of": of, **dataclasses.asdict(found)}


def _machine(device: torch.device) -> dict[str, Any]:
    """Return what is computed on."""
    import torch

    from gptlab.distributed.devices import cores, processor

    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "threads": None, "cores": None}
    return {"device": processor(), "threads": torch.get_num_threads(), "cores": cores()}


def _limits(device: torch.device, precision: str) -> DeviceLimits:
    """Measure the most that the device does in fp32, in the numbers of the precision, and in bf16 where it has them."""
    import torch

    from gptlab.commands.bench_inference import DeviceLimits
    from gptlab.commands.bench_training import number_kind
    from gptlab.planning.limits import best_square_product, read_bandwidth
    from gptlab.training.precision import chosen_precision

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    kinds = {"fp32", number_kind(precision), number_kind(chosen_precision("auto", device.type))}
    peaks = {kind: best_square_product(dtype, device) for kind, dtype in dtypes.items() if kind in kinds}
    return DeviceLimits(device.type, read_bandwidth(device), peaks)


def _builder(source: RunDir | None, begun: Start | None) -> Callable[[], Any]:
    """Return what gives the model to read with: that of a run, or a new one with as many tokens as the tokenizer."""
    from gptlab.evaluation.model import load_language_model
    from gptlab.model.config import build_model

    if source:
        return lambda: load_language_model(source)[0]
    assert begun is not None
    model = begun.config.model
    return lambda: build_model(model)
