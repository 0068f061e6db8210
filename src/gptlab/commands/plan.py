"""The verb `plan`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptlab.errors import UserError, require
from gptlab.planning.cost import CHINCHILLA, Hardware, cost_of, hours
from gptlab.planning.flops import flops_by_part, flops_per_token
from gptlab.planning.inference import cached_numbers, decode_flops, prefill_flops
from gptlab.registry import command, name_of
from gptlab.training.config import TrainConfig

if TYPE_CHECKING:
    from gptlab.training.budget import Plan


@dataclass
class PlanConfig(TrainConfig):
    """Estimate what a run takes, from the config of `train`: parameters, operations, memory, time, energy, price."""

    hardware: Hardware = field(default_factory=Hardware)  # the devices, by their data sheet and price
    mfu: float = 0.4  # share of the devices' peak operations a second that training reaches
    beside: str | None = None  # a finished run of this config (config=RUN): what it took stands beside what is planned
    measure: bool = False  # take the share that a few steps of random tokens reach on this machine instead of mfu

    def __post_init__(self) -> None:
        require(0 < self.mfu <= 1, "mfu", self.mfu, "is not in (0, 1]", "0.4 is usual on large GPUs")
        super().__post_init__()

    def _require_source(self) -> None:
        """Refuse nothing: a plan needs the shape of a model, and no weights."""


@command
def plan(config: PlanConfig) -> dict[str, Any]:
    """Estimate the cost of a run before it.

    Takes the config of `train`, and reads no data. Prints and returns parameters, operations, memory of each device,
    time, energy and price, and the nearest change that fits where the memory is too small.
    """
    from gptlab.commands.plan_tables import show

    config = _with_precision(_resolved(config))
    _require_windows(config)

    from gptlab.commands.plan_memory import memory_of_plan
    from gptlab.model.gpt import num_frozen, num_params
    from gptlab.training.random_step import model_without_memory

    devices = _devices(config)
    model = model_without_memory(dataclasses.replace(config, adapter=None))
    adapted = model if config.adapter is None else model_without_memory(config)
    parameters, frozen = num_params(model), num_frozen(adapted)
    flops = flops_per_token(config.model, parameters=parameters) - 2 * frozen
    micro_batch, micro_batches = _micro_batches(config, devices)
    mfu = config.mfu
    if config.measure:
        from gptlab.training.random_step import measured_mfu

        mfu = measured_mfu(config, micro_batch, micro_batches, flops)
    peak = config.hardware.peak(config.trainer.precision)
    budget = _budget(config, parameters, flops, 3600 * hours(1, peak * devices, mfu))
    gpu_hours = hours(budget.flops, peak, mfu)
    cost = cost_of(gpu_hours, config.hardware)
    answer = {
        "parameters": parameters,
        "parameters_by_part": _by_part(adapted),
        "trained": num_params(adapted),
        "flops_per_token": flops,
        "flops_by_part": _flops_by_part(config.model),
        "steps": budget.steps,
        "tokens": budget.tokens,
        "flops": budget.flops,
        "tokens_per_parameter": budget.tokens_per_param,
        "chinchilla_tokens": CHINCHILLA * parameters,
        "hardware": config.hardware.name,
        "devices": devices,
        "mfu": mfu,
        "mfu_measured": config.measure,
        "hours": gpu_hours / devices,
        "gpu_hours": gpu_hours,
        "kwh": cost.kwh,
        "price": cost.price,
        "price_as_of": config.hardware.as_of if cost.price is not None else None,
        **memory_of_plan(config, micro_batch, micro_batches, devices, config.hardware.memory),
        "inference": _inference(config.model, parameters, config.trainer.precision),
    }
    if config.beside:
        answer["measured"] = _measured(config.beside, parameters, devices)
    show(answer)
    return answer


def _measured(name: str, parameters: int, devices: int) -> dict[str, float | None]:
    """Return what a finished run took, each under its name in the plan; None for what it did not measure."""
    from gptlab.runs.reader import read_run
    from gptlab.runs.run_dir import RunDir

    path = RunDir.find_as("beside", name, without_checkpoint=True).path
    run = read_run(path, path.name)
    require(run.status == "finished", "beside", name, f"is {run.status}", "give a finished run")
    own, speed = run.figure("parameters"), run.figure("tokens_per_second")
    why, todo = f"has {own or 0:,.0f} parameters, and the plan is of {parameters:,}", f"plan it: config={name}"
    require(own == parameters, "beside", name, why, todo)
    hours = run.figure("tokens", 0.0) / speed / 3600 if speed else None  # type: ignore[operator]
    return {
        "tokens": run.figure("tokens"),
        "flops": run.figure("flops"),
        "mfu": run.figure("mfu"),
        "hours": hours,
        "gpu_hours": hours and hours * devices,
        "kwh": run.figure("energy_kwh"),
        "memory_bytes": run.figure("peak_memory_bytes"),
    }


def _resolved(config: PlanConfig) -> PlanConfig:
    """Return the config with the model that it begins with, if any, and the number of tokens of its tokenizer."""
    from gptlab.config.record import read_typed
    from gptlab.runs.run_dir import RunDir
    from gptlab.tokenizers.bpe import BPE
    from gptlab.tokenizers.char import Char

    if config.init_from:
        before = read_typed(RunDir.find_as("init_from", config.init_from).path / "config.yaml")
        return dataclasses.replace(config, model=before.model, tokenizer=before.tokenizer)
    if config.model.vocab_size:
        return config
    name, tokenizer = name_of(config.tokenizer), config.tokenizer
    if isinstance(tokenizer, Char):
        raise UserError("model.vocab_size", 0, f"tokenizer={name} has as many tokens as the text", "give a number")
    size = tokenizer.vocab_size if isinstance(tokenizer, BPE) else tokenizer.build(()).n_vocab
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))


def _with_precision(config: PlanConfig) -> PlanConfig:
    """Return the config with the precision that `auto` stands for on the hardware that is planned for."""
    if config.trainer.precision != "auto":
        return config
    precision = "bf16-mixed" if config.hardware.bf16 > config.hardware.fp32 else "32-true"
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, precision=precision))


def _require_windows(config: PlanConfig) -> None:
    """Refuse what has other batches than windows of text."""
    from gptlab.tasks.causal_lm import CausalLM

    known = type(config.task) is CausalLM
    require(known, "task", name_of(config.task), "has batches that plan does not know", "leave it out")


def _devices(config: PlanConfig) -> int:
    """Return the number of devices; `auto` stands for one on each machine."""
    asked = config.trainer.devices
    here = len(asked) if isinstance(asked, list) else 1 if asked == "auto" else asked
    known = isinstance(here, int | str) and str(here).isdecimal() and int(here) >= 1
    require(known, "trainer.devices", asked, "is no number of devices", "give one, such as 8")
    return int(here) * config.trainer.num_nodes


def _micro_batches(config: PlanConfig, devices: int) -> tuple[int, int]:
    """Return the sequences of a micro-batch, and the number of micro-batches in the largest step of one device."""
    asked, sizes = config.data.micro_batch_size, config.batch_sizes
    size = max(1, sizes.common // devices) if asked in (None, "auto") else int(asked)
    for stage in sizes.stages:
        key = "schedule.batch" if stage.step else "data.batch_size"
        why, todo = f"is no multiple of {size} on each of {devices} device(s)", f"try {size * devices}"
        require(stage.size % (size * devices) == 0, key, stage.size, why, todo)
    return size, max(stage.size for stage in sizes.stages) // (size * devices)


def _budget(config: PlanConfig, parameters: int, flops: int, seconds_per_flop: float) -> Plan:
    """Return the budget in all of its units; refuses less than a step."""
    tokens = config.data.batch_size * config.model.block_size
    paced = dataclasses.replace(config.budget, seconds_per_step=tokens * flops * seconds_per_flop)
    ((unit, amount),) = paced.fixed().items()
    found = paced.plan(tokens, None, parameters, flops, config.batch_sizes)
    assert found is not None and paced.seconds_per_step is not None
    of_one = {"minutes": paced.seconds_per_step / 60, "steps": 1, "tokens": tokens, "flops": tokens * flops}
    one = {**of_one, "tokens_per_param": tokens / parameters}[unit]
    why, todo = f"is less than one step, which is {one:.6g}", "give more, or a smaller data.batch_size"
    require(amount >= (1 - 1e-6) * one, f"budget.{unit}", f"{amount:g}", why, todo)
    return found


def _by_part(model: Any) -> dict[str, int]:
    """Count the parameters of each part of a model; tied ones count once, as embeddings."""
    kinds = {"lora_": "adapter", "wte": "embeddings", "wpe": "embeddings", "lm_head": "head"}
    kinds |= {".ln_": "norms", "ln_": "norms", ".post_": "norms", ".attn.": "attention", ".mlp.": "feed_forward"}
    found: dict[str, int] = {}
    for name, p in model.named_parameters():
        part = next((part for key, part in kinds.items() if key in name), name.partition(".")[0])
        found[part] = found.get(part, 0) + p.numel()
    return found


def _flops_by_part(model: Any) -> dict[str, int] | None:
    from gptlab.model.config import GPTConfig

    return flops_by_part(model) if isinstance(model, GPTConfig) else None


def _inference(model: Any, parameters: int, precision: str) -> dict[str, int] | None:
    """Return the operations of reading a full context and of one more token, and the bytes of a cache, of one text."""
    from gptlab.model.config import GPTConfig

    if not isinstance(model, GPTConfig):
        return None
    number = 4 if precision.startswith("32") else 2
    return {
        "prefill_flops": prefill_flops(model, model.block_size),
        "decode_flops": decode_flops(model, model.block_size),
        "cache_bytes": number * cached_numbers(model, model.block_size),
        "weight_bytes": number * parameters,
    }
