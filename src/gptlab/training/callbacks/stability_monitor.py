"""Watch for steps that go wrong: gradients that are not finite, and spikes of the loss."""

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.examples import ExampleDataModule
from gptlab.files import write_atomically
from gptlab.tokenizers import Tokenizer
from gptlab.training.lightning_internals import datamodule_of, load_weights_and_optimizer
from gptlab.training.module import GPTModule, NotFinite

IN_A_ROW = 10  # the most consecutive steps that may be skipped


class Spike(NamedTuple):
    """A step whose loss is far above the recent ones."""

    step: int
    loss: float
    usual: float


class Spikes:
    """A detector of steps whose loss is `sigmas` robust standard deviations above the median of the last hundred."""

    def __init__(self, sigmas: float, last: Iterable[float] = ()) -> None:
        self.sigmas, self.last = sigmas, deque(last, maxlen=100)

    def see(self, step: int, loss: float) -> Spike | None:
        """Add the loss of a step; return it as a Spike if it is far above the recent ones."""
        spike = None
        if self.sigmas and len(self.last) >= 20:
            usual = statistics.median(self.last)
            spread = 1.4826 * statistics.median(abs(x - usual) for x in self.last)  # a normal's standard deviation
            if loss > usual + self.sigmas * max(spread, 0.01):
                spike = Spike(step, loss, usual)
        self.last.append(loss)
        return spike


class StabilityMonitor(Callback):
    """A monitor of unstable steps, called at the end of a step.

    It writes RUN/stability/step-N.json with the batch, takes the run back to its last checkpoint if that is asked for,
    and ends the run if nothing helps.
    """

    def __init__(
        self,
        run_dir: Path,
        tokenizer: Tokenizer,
        on_nan: str,
        sigmas: float,
        console: Console,
        checkpoint: Callable[[], Path | None],
    ) -> None:
        self.run_dir, self.tokenizer, self.on_nan, self.console = run_dir, tokenizer, on_nan, console
        self.checkpoint = checkpoint  # returns the checkpoint to go back to, if there is one
        self.spikes = Spikes(sigmas)
        self.skipped: list[int] = []  # steps

    def state_dict(self) -> dict[str, Any]:
        return {"last": list(self.spikes.last), "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spikes = Spikes(self.spikes.sigmas, [float(loss) for loss in state_dict["last"]])
        self.skipped = [int(step) for step in state_dict["skipped"]]

    def skipped_step(self, trainer: L.Trainer, module: GPTModule) -> bool:
        """Return whether the gradient of the last step was not finite, and deal with it."""
        if module.skipped_step is None:
            return False
        step, module.skipped_step = module.skipped_step, None
        self._skip(trainer, module, step)
        return True

    def check_losses(self, trainer: L.Trainer, module: GPTModule, losses: list[tuple[int, float]]) -> None:
        """Check the (step, loss) pairs that were just logged for spikes."""
        module.check_gradients()
        for step, loss in losses:
            if not math.isfinite(loss):
                if self.on_nan == "stop":
                    raise NotFinite(step)
                if step not in self.skipped:  # in 16-mixed the scaler skips steps by itself
                    self._skip(trainer, module, step)
            elif spike := self.spikes.see(step, loss):
                what = f"the loss jumped to {loss:.3f} from about {spike.usual:.3f}"
                self._report(trainer, step, what, loss=loss, usual=spike.usual)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NotFinite):
            self._report(trainer, exception.step, "the gradient is not finite")

    def _skip(self, trainer: L.Trainer, module: GPTModule, step: int) -> None:
        self.skipped.append(step)
        if self.skipped[-IN_A_ROW:] == list(range(step - IN_A_ROW + 1, step + 1)):
            raise NotFinite(step)
        checkpoint = self.checkpoint() if self.on_nan == "rewind" else None
        if checkpoint is None:
            self._report(trainer, step, "the gradient is not finite; the step is skipped")
            return
        taken = rewind(trainer, module, checkpoint)
        self._report(trainer, step, f"the gradient is not finite; going on with the weights of step {taken}")

    def _report(self, trainer: L.Trainer, step: int, what: str, **figures: float) -> None:
        if not trainer.is_global_zero:
            return
        data = datamodule_of(trainer)
        found = {"step": step, "what": what, **figures}
        if isinstance(data, TextDataModule):  # other data modules cannot return the rows of a step
            found["windows"] = [
                {"source": source, "window": window, "text": self._text(data, source, window)}
                for source, window in data.windows_of(step)
            ]
        elif isinstance(data, ExampleDataModule):
            found["examples"] = data.examples_of(step)  # the numbers of the training examples
        path = self.run_dir / f"stability/step-{step}.json"
        write_atomically(path, json.dumps(found, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        where = "see" if found.keys().isdisjoint(("windows", "examples")) else "its batch is in"
        told = f"step {step}: {what}; {where} {path}"
        self.console.print(told, highlight=False, markup=False, soft_wrap=True)

    def _text(self, data: TextDataModule, source: int, window: int) -> str:
        return self.tokenizer.decode(data.train[source].ids(window).tolist())


def rewind(trainer: L.Trainer, module: GPTModule, path: Path) -> int:
    """Load weights, their average and the optimizer from a checkpoint but keep the current rates; returns its step."""
    groups = trainer.optimizers[0].param_groups
    rates = [group["lr"] for group in groups]

    def read(saved: dict[str, Any]) -> None:
        module.complete(saved)
        module.average.load(saved, "gpt.", module.gpt)

    step = load_weights_and_optimizer(trainer, path, read)
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    return step
