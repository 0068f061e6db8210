"""The LightningModule: it owns the loss, what is logged, and the optimizer; the model stays a plain nn.Module."""

from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from gptlab.data.windows import Batch
from gptlab.metrics import IGNORE, Score, nats
from gptlab.model.gpt import GPT, read_by_document
from gptlab.optim.optimizers import OptimizerConfig
from gptlab.optim.schedules import Constant
from gptlab.training.resume import fresh_loops


class GPTModule(L.LightningModule):
    """A GPT in training for `steps` optimizer steps; `val_bytes` is what the held-out tokens spell."""

    def __init__(
        self,
        gpt: GPT,
        optimizer: OptimizerConfig,
        schedule: Constant,
        steps: int,
        val_bytes: int,
        clip_norm: float,
        log_every_n_steps: int,
        seed: int,
        separator: int | None = None,
    ) -> None:
        super().__init__()
        self.gpt = gpt
        self.optimizer, self.schedule, self.steps = optimizer, schedule, steps
        self.val_bytes, self.clip_norm, self.seed = val_bytes, clip_norm, seed
        self.log_every_n_steps = log_every_n_steps
        self.separator = separator  # the id that begins a document, if attention stays within documents
        self._losses: list[Tensor] = []  # of this rank, since the last log
        self._val: list[Tensor] = []  # (nats, tokens) of each batch
        self._grad_norm = torch.tensor(0.0)
        self.pending: dict[str, float] = {}  # what callbacks add to the next training metrics

    def loss(self, batch: Batch) -> Tensor:
        """Mean next-token loss of one batch, in nats per token (J&M eq. 10.5)."""
        x, y = batch
        return nats(read_by_document(self.gpt, x, self.separator), y)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        total = nats(read_by_document(self.gpt, x, self.separator), y, reduction="sum").float()
        self._val.append(torch.stack([total, (y != IGNORE).sum().float()]))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout's noise is a function of where we are, not of what ran before; no two ranks share it
        part = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(hash((self.seed, self.global_step, part, self.global_rank)))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the mean loss since the last log: no step waits for the device in between."""
        if not self.logs_after(batch_idx):
            return
        losses = torch.stack([loss.to(self.device) for loss in self._losses])
        loss = self.trainer.strategy.reduce(losses.mean(), reduce_op="mean")
        self._losses.clear()
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._record({"train/loss": loss, "optim/lr": lr, "optim/grad_norm": self._grad_norm, **self.pending})
        self.pending.clear()

    def logs_after(self, batch_idx: int) -> bool:
        """Whether this micro-batch ends a step whose training metrics are logged."""
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return False
        return self.global_step % self.log_every_n_steps == 0 or self.global_step == self.steps

    def on_validation_epoch_end(self) -> None:
        """Exact over all ranks: sums of nats and of tokens, never a mean of means."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.stack(self._val).cpu().double().sum(0).to(self.device, exact)
        self._val.clear()
        total_nats, tokens = self.trainer.strategy.reduce(total, reduce_op="sum").tolist()
        score = Score(total_nats, int(tokens), self.val_bytes)
        self._record(
            {
                "val/loss": score.loss,
                "val/perplexity": score.perplexity,
                "val/bits_per_byte": score.bits_per_byte,
            }
        )

    def _record(self, metrics: dict[str, Any]) -> None:
        """To the loggers by step, without Lightning's `epoch`; to callbacks (checkpoints, progress) by name."""
        metrics = {key: float(value) for key, value in metrics.items()}
        self.log_dict(metrics, logger=False, rank_zero_only=False, sync_dist=False)
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
        """Clip by the global norm and keep it. Lightning's own refuses fused optimizers under mixed precision."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # Lightning leaves this to fused optimizers, which do it after clipping
        limit = self.clip_norm or float("inf")
        self._grad_norm = torch.nn.utils.clip_grad_norm_(self.gpt.parameters(), limit)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loops = fresh_loops(
            self.trainer.fit_loop.state_dict(), checkpoint["global_step"], self.trainer.accumulate_grad_batches
        )
        checkpoint["loops"] = {"fit_loop": loops}
        self._losses = list(checkpoint["losses"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["model"] = asdict(self.gpt.config)
        since = self.global_step % self.log_every_n_steps  # steps; at 0 they are logged before the next one
        whole = since * self.trainer.accumulate_grad_batches
        checkpoint["losses"] = [loss.cpu() for loss in self._losses[:whole]]  # of whole steps since the last log
