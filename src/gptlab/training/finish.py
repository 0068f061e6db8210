"""Write the result of a run, and show it."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from gptlab.decoding.decoders import Greedy
from gptlab.errors import RunFailed, one_line, reason
from gptlab.metrics import in_summary
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import fingerprint
from gptlab.training.build import Parts
from gptlab.training.console import ending
from gptlab.training.lightning_internals import device_of, is_sharded, write_failure
from gptlab.training.replication import replication
from gptlab.training.start import Start


def measure_end(parts: Parts) -> None:
    """Give the model its averaged weights, and make sure that the end is validated and best.ckpt exists.

    It was done unless the run was resumed after its last step from a checkpoint of gptlab 0.1.
    """
    module, end_of_step = parts.module, parts.end_of_step
    end_of_step.complete_checkpoint(parts.trainer)
    module.average.apply(module.gpt)
    if module.task.better not in end_of_step.metrics:
        parts.trainer.validate(module, parts.datamodule, verbose=False)
        end_of_step.metrics |= {name: float(value) for name, value in parts.trainer.callback_metrics.items()}


def summarise(begun: Start, parts: Parts, status: str) -> dict[str, Any]:
    """Return the content of summary.json, and write it on rank 0."""
    config, throughput, run_dir = begun.config, parts.end_of_step.throughput, begun.run_dir
    values = parts.end_of_step.metrics
    summary = {
        "status": status,
        "parameters": parts.parameters,
        **({} if parts.trained is None else {"trained_parameters": parts.trained}),
        "steps": parts.trainer.global_step,
        "tokens": throughput.tokens,
        "flops": throughput.tokens * parts.flops_per_token,
        "seconds": throughput.all_seconds,
        "tokens_per_second": throughput.tokens_per_second,
        "mfu": throughput.mfu,
        **_measured(parts),
        **{metric.key: _finite(values.get(metric.name)) for metric in in_summary(config.task.metrics)},
        **{name.replace("/", "_"): _finite(value) for name, value in values.items() if name.count("/") == 2},
        "budget": config.budget.fixed(),
        "protocol": begun.data.module.protocol(),
        "tokenizer_hash": fingerprint(run_dir / "tokenizer"),
        "data_hash": begun.data.module.data_hash,
        "seed": config.seed,
        "name": config.name,
        "run_dir": str(run_dir),
    }
    if parts.trainer.is_global_zero:
        found = replication(run_dir, summary) if status == "finished" else None
        summary = RunDir(run_dir).write_summary(summary | ({"replication": found} if found else {}))
    return summary


def _measured(parts: Parts) -> dict[str, float]:
    """Return the energy of the run in kWh, and the peak memory of this GPU's tensors in bytes, where they are known."""
    kwh, device = parts.energy.kwh, device_of(parts.trainer)
    memory = {"peak_memory_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
    return {**({} if kwh is None else {"energy_kwh": kwh}), **memory}


def finish(begun: Start, parts: Parts, summary: dict[str, Any], console: Console) -> dict[str, Any] | None:
    """Show the end of a run; returns its summary, or None in a process that is not rank 0.

    Raises RunFailed if a checkpoint could not be written.
    """
    texts = _texts(begun, parts)
    if not parts.trainer.is_global_zero:
        return None
    ending(console, summary, texts)
    if failure := write_failure(parts.trainer):
        todo = f"make room, then: gptlab train resume={begun.run_dir}"
        raise RunFailed(f"checkpoint={begun.run_dir / 'checkpoints'}: cannot be written ({failure}); {todo}")
    return summary


def _texts(begun: Start, parts: Parts) -> Sequence[tuple[str, str, str]]:
    """Return (decoder, prompt, continuation) of the first prompt, greedy and by the run's own decoder."""
    config, gpt = begun.config, parts.module.gpt.eval()
    together = is_sharded(parts.trainer)  # all ranks must run a sharded model
    if not config.sample_prompts or not (parts.trainer.is_global_zero or together):
        return []
    prompt = config.sample_prompts[0]
    decoders = [("greedy", Greedy()), (_name(config.decoder), config.decoder)]
    if not config.task.predicts_tokens:  # nothing is drawn
        decoders = [("predicted", Greedy())]
    return [
        (how, prompt, config.task.samples(gpt, begun.data.tokenizer, [prompt], decoder, config.seed)[0])
        for how, decoder in decoders
    ]


def stopped(begun: Start, parts: Parts, console: Console) -> None:
    """Report the step at which a run was stopped, and the command that resumes it."""
    path = begun.run_dir
    line = (
        f"stopped at step {parts.trainer.global_step}; what was learned is in {path}; go on: gptlab train resume={path}"
    )
    console.print(Text(line), soft_wrap=True)


def not_finite(begun: Start, step: int) -> RunFailed:
    """Return the error that ends a run whose step had a gradient that is not finite."""
    todo = "lower optimizer.lr, or on_nan=skip"
    if begun.data.corpus is not None and begun.config.task.predicts_tokens:  # what replay can rebuild
        todo += f"; what was in it: gptlab replay run={begun.run_dir} step={step}"
    return RunFailed(f"step={step}: its gradient is not finite; {todo}")


def unwritable(begun: Start, error: OSError) -> RunFailed:
    """Return the error that ends a run whose files cannot be written: a full disk, a directory that was taken away."""
    where, why = error.filename or begun.run_dir, error.strerror or reason(error)
    return RunFailed(one_line(f"{where}: {why}; mend that, then: gptlab train resume={begun.run_dir}"))


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _name(decoder: object) -> str:
    fields = ", ".join(f"{k}={v}" for k, v in vars(decoder).items())
    return f"{type(decoder).__name__.lower()} ({fields})" if fields else type(decoder).__name__.lower()
