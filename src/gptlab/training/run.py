"""Train a model: start, build, fit, finish."""

import contextlib
import functools
import signal
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.errors import RunFailed, Stopped, one_line, reason
from gptlab.files import remove_unfinished
from gptlab.runs.config_file import record
from gptlab.runs.run_dir import PICTURES, RunDir
from gptlab.training.build import Parts, build
from gptlab.training.callbacks.checkpointing import go_on_from
from gptlab.training.callbacks.graceful_stop import ended_by_signals, requeue
from gptlab.training.callbacks.samples import keep_until
from gptlab.training.checkpoint_state import require_state
from gptlab.training.config import TrainConfig
from gptlab.training.console import header
from gptlab.training.finish import finish, measure_end, not_finite, stopped, summarise, unwritable
from gptlab.training.lightning_internals import device_of, early_rank, silence_advice
from gptlab.training.metrics_file import metrics_until, write_rows
from gptlab.training.module import NotFinite
from gptlab.training.peak_flops import peak_flops
from gptlab.training.start import Start, start
from gptlab.training.waiting import waiting


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a model by its config; returns the content of summary.json, or None in a process that is not rank 0.

    Raises UserError for what cannot be asked (nothing is written then), RunFailed if the run fails in the middle, and
    Stopped if it was asked to stop.
    """
    silence_advice()
    console = Console(quiet=early_rank() != 0)
    with contextlib.ExitStack() as before_fit:
        before_fit.enter_context(ended_by_signals())
        begun = start(config, console)
        try:
            with waiting(console, "building the model"):
                parts = build(begun, console)
            require_state(begun, parts)
            try:
                open_run(begun, parts, console)  # from here on something is written
                before_fit.close()
                return fit(begun, parts, console)
            except OSError as error:
                raise unwritable(begun, error) from error
        finally:
            begun.release()


def fit(begun: Start, parts: Parts, console: Console) -> dict[str, Any] | None:
    """Attach the loggers, train, and write what it has come to."""
    status, stop, bar = "failed", parts.end_of_step.stop, parts.end_of_step.bar
    try:
        with bar.shown():
            attach_loggers(begun, parts)
            with stop.heed_signals():
                parts.trainer.fit(parts.module, parts.datamodule, ckpt_path=begun.checkpoint, weights_only=True)
        measure_end(parts)
        status = "finished"
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        status = "stopped"
        stopped(begun, parts, console)
        # a sweep ends too; with nothing noted it was Ctrl-C before the first step
        raise Stopped(stop.signal_number if stop.why else signal.SIGINT) from None
    except NotFinite as error:
        raise not_finite(begun, error.step) from error
    finally:
        begun.config.logger.close(status == "finished")
        summary = summarise(begun, parts, status)
        if stop.why == "SIGUSR1" and parts.trainer.is_global_zero:
            begun.release()
            requeue()
    return finish(begun, parts, summary, console)


def open_run(begun: Start, parts: Parts, console: Console) -> None:
    """Make the run directory, or put that of a resumed run back to where its checkpoint is."""
    config, data, run = begun.config, begun.data, RunDir(begun.run_dir)
    planned = parts.plan.steps if parts.plan else None
    if parts.trainer.is_global_zero:
        begun.lock = begun.lock or run.hold("run_dir")
        for folder in ("", "checkpoints", "tokenizer", "held_out", PICTURES):
            remove_unfinished(run.path / folder)
        if begun.in_place:
            put_back(begun, run.path)
            run.go_on(record(config), planned)
        else:
            take_over = functools.partial(put_back, begun)
            trunk = begun.resumed_from.path.resolve() if begun.resumed_from else None
            run.create(record(config), data.tokenizer.save, data.save_held_out, take_over, planned, trunk)
        if begun.resumed_from:
            again = "there was no checkpoint yet: it begins again"
            console.print(f"going on after step {begun.step:,}" if begun.checkpoint else again)
            if begun.changed:
                line = f"changed in this continuation: {', '.join(begun.changed)}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        trainer = parts.trainer
        peak = peak_flops(device_of(trainer), bf16="bf16" in config.trainer.precision)
        parts.end_of_step.throughput.share_per_token = parts.flops_per_token / (peak.flops * trainer.world_size)
        header(console, begun, parts, peak)


def attach_loggers(begun: Start, parts: Parts) -> None:
    """Let metrics go where they were asked to, on from where they were; raises RunFailed where one cannot begin."""
    before = (begun.step, begun.run_dir) if begun.resumed_from else ()
    try:
        parts.trainer.loggers = begun.config.logger.build(begun.run_dir, begun.config.name, *before)
    except OSError:
        raise
    except Exception as error:  # whatever a dashboard's client raises
        why = one_line(f"logger: cannot begin ({type(error).__name__}: {reason(error)})")
        raise RunFailed(f"{why}; leave it out, then: gptlab train resume={begun.run_dir}") from error


def put_back(begun: Start, run_dir: Path) -> None:
    """Reduce a run directory to what belongs before the checkpoint of a resumed run; the rest will be written again."""
    if begun.resumed_from is None:
        return
    if begun.checkpoint:
        go_on_from(begun.checkpoint, begun.step, run_dir / "checkpoints")
    keep_until(begun.resumed_from.path, run_dir, begun.step)
    if not begun.in_place and (rows := metrics_until(begun.resumed_from.path / "metrics.csv", begun.step)):
        write_rows(run_dir / "metrics.csv", rows)
