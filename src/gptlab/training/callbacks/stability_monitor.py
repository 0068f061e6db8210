"""Steps that go wrong: gradients that are not finite, and spikes of the loss; each with the batch it was made of."""

import json
import math
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from gptlab.data.batches.datamodule import TextDataModule
from gptlab.files import write_atomically
from gptlab.tokenizers import Tokenizer
from gptlab.training.module import GPTModule, NotFinite

IN_A_ROW = 10  # steps that may be left out one after the other


class Spike(NamedTuple):
    step: int
    loss: float
    usual: float


class Spikes:
    """Steps whose loss is `sigmas` robust standard deviations above the median of the last hundred."""

    def __init__(self, sigmas: float, last: Iterable[float] = ()) -> None:
        self.sigmas, self.last = sigmas, deque(last, maxlen=100)

    def see(self, step: int, loss: float) -> Spike | None:
        spike = None
        if self.sigmas and len(self.last) >= 20:
            usual = statistics.median(self.last)
            spread = 1.4826 * statistics.median(abs(x - usual) for x in self.last)  # a normal's standard deviation
            if loss > usual + self.sigmas * max(spread, 0.01):
                spike = Spike(step, loss, usual)
        self.last.append(loss)
        return spike


class StabilityMonitor(Callback):
    """Writes RUN/trouble/step-N.json of such steps, takes the run back to its last checkpoint if asked to, and ends it
    where nothing helps."""

    def __init__(self, run_dir: Path, tokenizer: Tokenizer, on_nan: str, sigmas: float, console: Console) -> None:
        self.run_dir, self.tokenizer, self.on_nan, self.console = run_dir, tokenizer, on_nan, console
        self.spikes = Spikes(sigmas)
        self.left_out: list[int] = []  # steps

    def state_dict(self) -> dict[str, Any]:
        return {"last": list(self.spikes.last), "left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spikes, self.left_out = Spikes(self.spikes.sigmas, state_dict["last"]), list(state_dict["left_out"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, GPTModule)
        if pl_module.left_out is not None:
            step, pl_module.left_out = pl_module.left_out, None
            self._left_out(trainer, pl_module, step)
        if pl_module.logs_after(batch_idx):
            pl_module.judge()
            for step, loss in pl_module.step_losses:
                if not math.isfinite(loss):
                    if self.on_nan == "stop":
                        raise NotFinite(step)
                    if step not in self.left_out:  # of 16-mixed, whose scaler passes over a step by itself
                        self._left_out(trainer, pl_module, step)
                elif spike := self.spikes.see(step, loss):
                    what = f"the loss jumped to {loss:.3f} from about {spike.usual:.3f}"
                    self._report(trainer, step, what, loss=loss, usual=spike.usual)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NotFinite):
            self._report(trainer, exception.step, "the gradient is not finite")

    def _left_out(self, trainer: L.Trainer, module: GPTModule, step: int) -> None:
        self.left_out.append(step)
        if self.left_out[-IN_A_ROW:] == list(range(step - IN_A_ROW + 1, step + 1)):
            raise NotFinite(step)
        last = self.run_dir / "checkpoints/last.ckpt"
        if self.on_nan == "skip" or not last.exists():
            self._report(trainer, step, "the gradient is not finite; the step is left out")
            return
        taken = rewind(trainer, last)
        self._report(trainer, step, f"the gradient is not finite; going on with the weights of step {taken}")

    def _report(self, trainer: L.Trainer, step: int, what: str, **figures: float) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, TextDataModule)
        windows = [
            {"source": source, "window": window, "text": self.tokenizer.decode(data.train[source].ids(window).tolist())}
            for source, window in data.windows_of(step)
        ]
        path = self.run_dir / f"trouble/step-{step}.json"
        found = {"step": step, "what": what, **figures, "windows": windows}
        write_atomically(path, json.dumps(found, indent=2, ensure_ascii=False).encode())
        self.console.print(f"step {step}: {what}; its batch is in {path}", highlight=False, soft_wrap=True)


def rewind(trainer: L.Trainer, path: Path) -> int:
    """Take weights and optimizer of a checkpoint, and nothing else; returns the step it was made at."""
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    checkpoint = trainer.strategy.load_checkpoint(path, weights_only=True)
    weights = checkpoint.get("current_model_state", checkpoint.get("state_dict", {}))  # the former beside averaged ones
    trainer.strategy.load_model_state_dict({"state_dict": weights})
    trainer.strategy.load_optimizer_state_dict(checkpoint)
    for group, rate in zip(trainer.optimizers[0].param_groups, rates, strict=True):
        group["lr"] = rate
    return int(checkpoint["global_step"])
