"""Train: start, build, fit, finish."""

from typing import Any

from rich.console import Console

from gptlab.errors import RunFailed, Stopped
from gptlab.runs.config_file import record
from gptlab.runs.run_dir import RunDir
from gptlab.training.build import Parts, build
from gptlab.training.callbacks.checkpointing import remove_unfinished
from gptlab.training.callbacks.graceful_stop import requeue
from gptlab.training.callbacks.samples import keep_until
from gptlab.training.config import TrainConfig
from gptlab.training.console import header
from gptlab.training.finish import finish, measure_end, stopped, summarise
from gptlab.training.lightning_internals import device_of, early_rank, silence_advice
from gptlab.training.module import NotFinite
from gptlab.training.peak_flops import peak_flops
from gptlab.training.start import Start, start


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train as asked; returns what summary.json holds, or None in a process that is not rank 0.

    Raises UserError for what cannot be asked (nothing is written then), RunFailed for what ends a run in the middle,
    and Stopped where it was asked to stop.
    """
    silence_advice()
    console = Console(quiet=early_rank() != 0)
    begun = start(config, console)
    try:
        parts = build(begun, console)
        open_run(begun, parts, console)  # from here on something is written
        status, stop = "failed", parts.end_of_step.stop
        try:
            with stop.heed_warning():
                parts.trainer.fit(parts.module, parts.datamodule, ckpt_path=begun.checkpoint, weights_only=True)
            measure_end(parts)
            status = "finished"
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            status = "stopped"
            stopped(begun, parts, console)
            raise Stopped(stop.signal_number) from None  # a sweep ends too
        except NotFinite as error:
            look = f"what was in it: gptlab replay run={begun.run_dir} step={error.step}"
            todo = f"lower optimizer.lr, or on_nan=skip; {look}"
            raise RunFailed(f"step={error.step}: its gradient is not finite; {todo}") from error
        finally:
            begun.config.logger.close(status == "finished")
            summary = summarise(begun, parts, status)
            if stop.why == "SIGUSR1" and parts.trainer.is_global_zero:
                begun.release()
                requeue()
        return finish(begun, parts, summary, console)
    finally:
        begun.release()


def open_run(begun: Start, parts: Parts, console: Console) -> None:
    """Make the run directory, or put that of a resumed run back to where its checkpoint is; then attach the loggers."""
    config, data, before = begun.config, begun.data, begun.resumed_from
    if parts.trainer.is_global_zero:
        if before and begun.in_place and begun.checkpoint:
            RunDir.go_on(begun.run_dir, record(config))
        else:  # a run that was killed before its first checkpoint is made again, in its own directory
            again = before is not None and begun.in_place
            run = RunDir.create(begun.run_dir, record(config), data.tokenizer.save, data.save_held_out, again)
            begun.lock = begun.lock or run.hold()
        remove_unfinished(begun.run_dir / "checkpoints")
        if before:
            keep_until(before.path, begun.run_dir, begun.step)
            console.print(f"going on after step {begun.step:,}")
        trainer = parts.trainer
        peak = peak_flops(device_of(trainer), bf16="bf16" in config.trainer.precision)
        parts.end_of_step.throughput.share_per_token = parts.flops_per_token / (peak.flops * trainer.world_size)
        header(console, begun, parts, peak)
    parts.trainer.loggers = config.logger.build(
        begun.run_dir, config.name, begun.step if before else None, before.path if before else None
    )
