"""The LightningModule: it owns the loss, what is logged, and the optimizer; the model stays a plain nn.Module."""

from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.distributed.ranks import whole
from gptlab.metrics import Score
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import OptimizerConfig
from gptlab.optim.schedules import Constant
from gptlab.training.loss import Loss
from gptlab.training.resume import fresh_loops


class NotFinite(RuntimeError):
    """A step whose gradient is not finite."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"the gradient of step {step} is not finite")


class GPTModule(L.LightningModule):
    """A GPT in training for `steps` optimizer steps; `val_bytes` is what the held-out tokens spell,
    `bytes_per_token` what a training token does in the mean."""

    gpt: GPT
    objective: Loss

    def __init__(
        self,
        objective: Loss,
        optimizer: OptimizerConfig,
        schedule: Constant,
        steps: int,
        val_bytes: int,
        clip_norm: float,
        log_every_n_steps: int,
        seed: int,
        on_nan: str = "stop",
        bytes_per_token: float = 1.0,
    ) -> None:
        super().__init__()
        self.gpt, self.objective = objective.gpt, objective
        self.optimizer, self.schedule, self.steps = optimizer, schedule, steps
        self.val_bytes, self.clip_norm, self.seed = val_bytes, clip_norm, seed
        self.log_every_n_steps, self.on_nan, self.bytes_per_token = log_every_n_steps, on_nan, bytes_per_token
        self.left_out: int | None = None  # the step just made, if its gradient was not finite
        self.step_losses: list[tuple[int, float]] = []  # of the steps that were logged last
        self.val_by_position = torch.empty(0)  # (T,) nats per token at the last validation
        self._losses: list[Tensor] = []  # of this rank, since the last log
        self._step: dict[str, Any] = {}  # what the optimizer did last
        self._norms: list[tuple[int, Tensor]] = []  # (step, gradient norm) since the last look
        self._val: list[Tensor] = []  # (2, T) of each batch: nats and tokens by position

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The share of one micro-batch in the mean next-token loss of its whole step, in nats per token (J&M eq. 10.5):
        their mean over micro-batches and ranks is exact however many targets each of them has."""
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        loss: Tensor = self.objective(batch.x, batch.y).sum() / (max(batch.step_targets or 0, 1) / parts)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch.x, batch.y
        self._val.append(torch.stack([self.objective(x, y).sum(0), (y != IGNORE).sum(0).float()]))

    def on_train_start(self) -> None:
        """The rate of this config: a checkpoint remembers the one of the config it was made with."""
        schedule: Any = self.lr_schedulers()
        schedule.base_lrs = [self.optimizer.lr] * len(schedule.base_lrs)
        for group in self.trainer.optimizers[0].param_groups:
            group["initial_lr"] = self.optimizer.lr
            group["lr"] = self.optimizer.lr * self.schedule(self.global_step, self.steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout's noise is a function of where we are, not of what ran before; no two ranks share it
        part = batch_idx % self.trainer.accumulate_grad_batches
        # (torch.manual_seed would also take down a traceback for every kind of device that is not there: 1 ms)
        noise: Any = torch.default_generator if self.device.type == "cpu" else torch.get_device_module(self.device)
        noise.manual_seed(hash((self.seed, self.global_step, part, self.global_rank)))

    def logs_after(self, batch_idx: int) -> bool:
        """Whether this micro-batch ends a step whose training metrics are logged."""
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return False
        return self.global_step % self.log_every_n_steps == 0 or self.global_step == self.steps

    def log_training(self, more: dict[str, float]) -> None:
        """The mean loss since the last log, and `more`: no step waits for the device in between."""
        losses = self._mean_losses().tolist()
        self._losses.clear()
        first = self.global_step - len(losses) + 1
        self.step_losses = list(enumerate(losses, first))
        loss = sum(losses) / len(losses)
        score = Score(loss, 1, self.bytes_per_token)
        scores = {"train/perplexity": score.perplexity, "train/bits_per_byte": score.bits_per_byte}
        self._record({"train/loss": loss, **scores, **self._step, **more})

    def forget(self) -> None:
        """The losses since the last log: of steps that do not count."""
        self._losses.clear()

    def _mean_losses(self) -> Tensor:
        """Of each whole step since the last log, over micro-batches and ranks."""
        parts = self.trainer.accumulate_grad_batches
        whole = len(self._losses) // parts * parts
        if not whole:
            return torch.empty(0)
        losses = torch.stack([loss.to(self.device) for loss in self._losses[:whole]]).view(-1, parts).mean(1)
        return self.trainer.strategy.reduce(losses, reduce_op="mean")

    def on_validation_epoch_end(self) -> None:
        """Exact over all ranks: sums of nats and of tokens, never a mean of means."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.stack(self._val).cpu().double().sum(0).to(self.device, exact)
        self._val.clear()
        by_position = self.trainer.strategy.reduce(total, reduce_op="sum").cpu().double()  # (2, T)
        self.val_by_position = by_position[0] / by_position[1]
        total_nats, tokens = by_position.sum(1).tolist()
        score = Score(total_nats, int(tokens), self.val_bytes)
        self._record(
            {
                "val/loss": score.loss,
                "val/perplexity": score.perplexity,
                "val/bits_per_byte": score.bits_per_byte,
            }
        )

    def _record(self, metrics: dict[str, Any]) -> None:
        """To the loggers by step, without Lightning's `epoch`; to callbacks (checkpoints, progress) by name.

        Lightning's own log_dict takes milliseconds for that.
        """
        metrics = {key: float(value) for key, value in metrics.items()}
        self.trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.global_step)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer.build(self.gpt)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule(step, self.steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm, and keep it and the rate. Lightning's own refuses fused ones under autocast."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # Lightning leaves this to fused optimizers, which do it after clipping
        norm = self.clip(optimizer)
        self._step = {"optim/lr": optimizer.param_groups[0]["lr"], "optim/grad_norm": norm}
        if scaler is None:  # a scaler tries scales until one fits
            self._norms.append((self.global_step + 1, norm))
        if self.on_nan != "stop" or self.device.type == "cpu":  # else at the next log: no step waits for the device
            self.judge()

    def clip(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Bound the global norm of the gradients; returns what it was."""
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        total = whole(norm)
        looks = self.device.type == "cpu"  # there it is free, and multiplying by 1 is not
        if self.clip_norm and not (looks and total <= self.clip_norm):
            torch.nn.utils.clip_grads_with_norm_(params, self.clip_norm, norm)
        return total

    def judge(self) -> None:
        """Look at the gradients since the last look. A step whose is not finite ends the run, or is left out."""
        norms, self._norms = self._norms, []
        finite = torch.stack([norm for _, norm in norms]).isfinite().tolist() if norms else []
        for (step, _), ok in zip(norms, finite, strict=True):
            if not ok and self.on_nan == "stop":
                raise NotFinite(step)
            if not ok:
                self.left_out = step
                for p in self.gpt.parameters():
                    p.grad = None  # optimizers pass over these

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loops = fresh_loops(
            self.trainer.fit_loop.state_dict(), checkpoint["global_step"], self.trainer.accumulate_grad_batches
        )
        checkpoint["loops"] = {"fit_loop": loops}
        parts = self.trainer.accumulate_grad_batches
        self._losses = [loss for loss in checkpoint["losses"] for _ in range(parts)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.judge()
        checkpoint["model"] = asdict(self.gpt.config)
        checkpoint["losses"] = list(self._mean_losses().cpu())  # of steps since the last log
