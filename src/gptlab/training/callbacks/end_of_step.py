"""Do everything that is due at the end of an optimizer step, in one written order."""

import contextlib
from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from gptlab.data.batches.batch import Batch
from gptlab.errors import Stopped
from gptlab.metrics import HIGHER, metric
from gptlab.planning.limits import wait_for_device
from gptlab.training.callbacks.checkpointing import Checkpoints
from gptlab.training.callbacks.graceful_stop import GracefulStop
from gptlab.training.callbacks.progress_bar import ProgressBar
from gptlab.training.callbacks.samples import Samples
from gptlab.training.callbacks.stability_monitor import StabilityMonitor
from gptlab.training.callbacks.throughput_monitor import ThroughputMonitor
from gptlab.training.lightning_internals import from_rank_0, publish, validate
from gptlab.training.module import GPTModule


class EndOfStep(Checkpoint):
    """The callback that owns the order at the end of a step; as a Checkpoint, Lightning calls it after all others.

        optimizer step -> weight average -> log -> validation, with the averaged weights -> samples -> best
        -> checkpoint, which records that all of this was done -> size of the next step -> stop, if one was asked for

    A stop asked for at any time takes effect at the end of this row and only there. A killed run continues from its
    last checkpoint, which lies at the end of a row; everything after it is done again. `goes_on_after_end` says whether
    a run that another callback had ended early continues.
    """

    def __init__(
        self,
        throughput: ThroughputMonitor,
        stability: StabilityMonitor,
        samples: Samples,
        checkpoints: Checkpoints,
        bar: ProgressBar,
        stop: GracefulStop,
        val_every_n_steps: int,
        goes_on_after_end: bool = False,
        val_at_start: bool = False,
    ) -> None:
        self.throughput, self.stability, self.samples = throughput, stability, samples
        self.checkpoints, self.bar, self.stop = checkpoints, bar, stop
        self.val_every_n_steps, self.goes_on_after_end = val_every_n_steps, goes_on_after_end
        self.val_at_start = val_at_start
        self.best: tuple[float, int | None] | None = None  # (score, step); runs of gptlab 0.1 do not know the step
        self.metrics: dict[str, float] = {}  # the last value of each metric
        self.ended = False  # whether a callback has ended the run before its last step
        self.complete = False  # whether all that was due at the last step is done: only then may its weights be saved
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        regular = self.checkpoints.regular
        return {"best": self.best, "metrics": self.metrics, "regular": regular, "ended": self.ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best, regular = state_dict["best"], state_dict.get("regular")
        self.best = None if best is None else (float(best[0]), None if best[1] is None else int(best[1]))
        self.metrics = {str(name): float(value) for name, value in state_dict["metrics"].items()}
        self.checkpoints.regular = None if regular is None else [int(step) for step in regular]
        self.ended = bool(state_dict.get("ended", False))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step, self.complete = trainer.global_step, True
        self.checkpoints.start(self._step)
        self.complete_checkpoint(trainer)
        # killed between its last checkpoint and its summary
        trainer.should_stop = from_rank_0(trainer, self.ended and not self.goes_on_after_end)
        if self.val_at_start and self._step == 0:
            with self._instead_of_steps("validation", "validating"):
                validate(trainer)
                self._remember(trainer)
                self.bar.validated(0, trainer.max_steps, self.metrics)

    def complete_checkpoint(self, trainer: L.Trainer) -> None:
        """Finish what a kill may have left undone after the checkpoint that a run continues from was written.

        If the best one is gone it is forgotten: the next validation is the best.
        """
        if trainer.is_global_zero and trainer.global_step:
            self.checkpoints.remove_old(trainer.global_step)
        if self.best is not None:
            found = trainer.is_global_zero and self.checkpoints.restore_best(self.best[1])
            if not from_rank_0(trainer, found):  # all ranks must know the same best
                self.best = None

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.complete = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # in the middle of gradient accumulation
            return
        assert isinstance(pl_module, GPTModule)
        self._step = trainer.global_step
        self._end_of_step(trainer, pl_module, batch)

    def _end_of_step(self, trainer: L.Trainer, module: GPTModule, batch: Batch) -> None:
        step, last = self._step, self._step == trainer.max_steps
        if not self.stability.skipped_step(trainer, module):
            module.average.update(module.gpt, step)
        if module.logs_at(step):
            wait_for_device(module.device)
        self.throughput.step(batch.step_tokens or 0)
        self.bar.step(step, self.throughput.seconds)
        if module.logs_at(step):
            self._log(trainer, module)
        best = self.best
        if last or trainer.should_stop or step % self.val_every_n_steps == 0:
            with self._instead_of_steps("validation", "validating"), module.average.applied(module.gpt):
                validate(trainer)
                self._remember(trainer)
                self.samples.draw(trainer, module.gpt)
            self.bar.validated(step, trainer.max_steps, self.metrics)
            self._compare(module.task.better)
        improved, self.ended = self.best != best, trainer.should_stop
        due = improved or last or self.ended or self.checkpoints.due(step)
        stop = self.stop.asked() and not last
        if due or stop:
            with self._instead_of_steps("checkpoint", "saving"):
                self.samples.sync()
                if not self.checkpoints.save(trainer, regular=due):
                    self.best = best
                elif improved:
                    self.checkpoints.mark_best(trainer)
        module.divide_step()
        self.complete = True
        if stop:
            raise Stopped(self.stop.signal_number)

    @contextlib.contextmanager
    def _instead_of_steps(self, kind: str, what: str) -> Iterator[None]:
        """Take the time of what is no training step, and say what it is."""
        with self.throughput.paused(), self.bar.remaining.timed(kind), self.bar.doing(what):
            yield

    def _log(self, trainer: L.Trainer, module: GPTModule) -> None:
        """Log the steps since the last log, and check them."""
        losses = module.mean_losses()
        publish(trainer, {**module.training_metrics(losses), **self.throughput.metrics()}, self._step)
        self._remember(trainer)
        self.bar.logged(self.metrics)
        self.stability.check_losses(trainer, module, losses)

    def _remember(self, trainer: L.Trainer) -> None:
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}

    def _compare(self, name: str) -> None:
        """Record the validation of this step as the best if it is the best so far; of equals the first stays."""
        score = self.metrics.get(name)
        if score is None or score != score:
            return
        sign = -1 if metric(name).better == HIGHER else 1
        if self.best is None or sign * score < sign * self.best[0]:
            self.best = (score, self._step)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save at a second Ctrl-C, unless it came in the middle of this order; other ranks may be gone by then."""
        if self.complete and isinstance(exception, KeyboardInterrupt | SystemExit) and trainer.world_size == 1:
            self.checkpoints.save(trainer, regular=False)
