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
    # tokens of the prompts that are read; none: an eighth, a half and all of the context, or of 2,048
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

    run, trains = run_of("run", config.run) if config.run else None, config.only != "inference"
    if trains or not run:
        require_possible(config)
    else:
        require_devices(config.trainer)
    reads = _reads(config, run)
    _require_model_of_run(config, run)
    console = Console(stderr=True)
    with waiting(console, "loading torch"):
        from gptlab.commands.bench_tables import show
        from gptlab.training.timing import passing_start

    with contextlib.ExitStack() as stack:
        begun = stack.enter_context(passing_start(config, console)) if trains or not run else None
        answer = _measured(config, run, begun, reads, trains, console)
    show(answer)
    return answer


def _reads(config: BenchConfig, run: RunDir | None) -> bool:
    """Return whether inference is measured; refuses a task that predicts no tokens, and prompts that are too long."""
    from gptlab.tasks.saved import task_of

    task = task_of(run.config()) if run else config.task
    if not task.predicts_tokens or config.only == "training":
        why, todo = f"its task, {name_of(task)}, does not predict the next token", "leave it out"
        require(config.only != "inference", "only", config.only, why, todo)
        return False
    block_size = _block_size(run) if run else config.model.block_size
    for length in config.prompts:
        why = f"is longer than the context of {block_size}"
        require(length <= block_size, "prompts", length, why, f"give at most {block_size}")
    return True


def _block_size(run: RunDir) -> int:
    """Return the context of a run's model."""
    return int(run.config()["model"]["block_size"])


def _require_model_of_run(config: BenchConfig, run: RunDir | None) -> None:
    """Refuse another model than that of the run that is named, whose weights are read."""
    if run is None or config.init_from:  # whose model is taken, whatever the config says
        return
    own = run.config().get("model", {})
    for key, value in vars(config.model).items():
        why, todo = f"is {own.get(key)} in {config.run}", "leave it out, or measure a new model without run="
        require(own.get(key, value) == value, f"model.{key}", value, why, todo)


def _measured(
    config: BenchConfig, run: RunDir | None, begun: Start | None, reads: bool, trains: bool, console: Console
) -> dict[str, Any]:
    """Measure the device, inference and training, in this order, and return the answer."""
    import torch

    from gptlab.commands.bench_inference import DeviceLimits, measure_inference
    from gptlab.commands.bench_training import measure_training, number_kind
    from gptlab.planning.limits import best_square_product, read_bandwidth
    from gptlab.training.precision import chosen_precision, require_precision
    from gptlab.training.timing import TimeIsUp, ended_after

    start = time.perf_counter()
    until = start + config.seconds
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator in ("auto", "gpu", "cuda")
    device = torch.device("cuda" if on_gpu else "cpu")
    precision = chosen_precision(config.trainer.precision, config.trainer.accelerator)
    require_precision(precision, device)
    machine = _machine(device)
    console.print("measuring the device", highlight=False)
    kinds = {"fp32", number_kind(precision), *(["bf16"] if chosen_precision("auto", device.type) != "32-true" else [])}
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    peaks = {kind: best_square_product(dtypes[kind], device) for kind in dtypes if kind in kinds}
    limits = DeviceLimits(read_bandwidth(device), peaks)
    found: dict[str, Findings | None] = {"training": None, "inference": None}
    if reads:
        load, n_vocab = _loader(config, run, begun, device)
        kind = "bf16-true" if "bf16" in precision else "32-true"
        end = start + config.seconds * (INFERENCE if trains else 1)
        with contextlib.suppress(TimeIsUp), ended_after(until - time.perf_counter()):
            found["inference"] = measure_inference(
                load, kind, config.batches, config.prompts, n_vocab, limits, end, console
            )
    if trains and begun is not None:
        seconds = STEPS * config.seconds
        found["training"] = measure_training(config, begun, limits, seconds, until, config.trials, console)
    measured = {of: each for of, each in found.items() if each is not None}
    return {
        "run": str(run.path) if run else None,
        "model": (run.title() if run else config.preset) or name_of(config.model),
        **machine,
        "bandwidth_bytes_per_second": limits.bandwidth,
        "peak_flops_per_second": limits.flops,
        **{of: each and each.figures for of, each in found.items()},
        "tried": [_row(of, trial) for of, each in measured.items() for trial in each.tried],
        "change_first": [_row(of, change) for of, each in measured.items() for change in each.advice],
        "seconds": time.perf_counter() - start,
    }


def _row(of: str, found: Advice | Trial) -> dict[str, Any]:
    return {"of": of, **dataclasses.asdict(found)}


def _machine(device: torch.device) -> dict[str, Any]:
    """Return what is computed on, and how busy it is with other work."""
    import torch

    from gptlab.distributed.devices import cores, processor

    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "threads": None, "cores": None, "load": None}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"device": processor(), "threads": torch.get_num_threads(), "cores": cores(), "load": load}


def _loader(
    config: BenchConfig, run: RunDir | None, begun: Start | None, device: torch.device
) -> tuple[Callable[[str], Any], int]:
    """Return a function that gives the model for reading in a precision, and the number of ids of the tokenizer."""
    from gptlab.evaluation.model import laid_out, load_language_model
    from gptlab.interop.hub_directory import run_of
    from gptlab.model.config import build_model

    if source := run or (run_of("init_from", config.init_from) if config.init_from else None):
        first, tokenizer = load_language_model(source)
        models = [first]

        def of_run(precision: str) -> Any:
            return laid_out(models.pop() if models else load_language_model(source)[0], precision, device.type)

        return of_run, tokenizer.n_vocab
    assert begun is not None
    model = begun.config.model

    def new(precision: str) -> Any:
        return laid_out(build_model(model), precision, device.type)

    return new, begun.data.tokenizer.n_vocab
