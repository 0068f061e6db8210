"""Define the LightningModule, which owns the step, the optimizer and their part of a checkpoint."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from gptlab.data.batches.batch import Batch, step_targets, tensors
from gptlab.distributed.sharding import full_tensor, shard
from gptlab.errors import require
from gptlab.model.config import build_model
from gptlab.optim.optimizers import OptimizerConfig
from gptlab.optim.scaling import base_rate, set_rates
from gptlab.optim.schedules import Schedule, batch_sizes, rate
from gptlab.randomness import random_seed
from gptlab.registry import name_of
from gptlab.tasks.base import Reading, Sums
from gptlab.tasks.saved import USUAL
from gptlab.training.adapted import Adapted
from gptlab.training.averaging import WeightAverage
from gptlab.training.hyper_parameters import part_of, settings
from gptlab.training.lightning_internals import (
    datamodule_of,
    grad_scaler,
    publish,
    reduced,
    restart_loops_at,
    set_accumulation,
    unscales_itself,
)
from gptlab.training.loss import Loss
from gptlab.training.resume import read_older_checkpoint


class NotFinite(RuntimeError):
    """An error: a step has a gradient that is not finite."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"the gradient of step {step} is not finite")


class GPTModule(L.LightningModule):
    """A model in training for `steps` optimizer steps.

    With `adapted` a part of the model is trained, and checkpoints hold that alone. `val_bytes` is the length of the
    text that the held-out targets spell, `bytes_per_target` the mean length of the text of a training target;
    `part_losses` score the other held-out sets, if not all have one task. With `sharded` the weights are spread over
    the devices, which compute in `shard_dtype`. The first step has `batch_size` sequences, the others as many as
    `schedule` says.
    """

    gpt: Any  # the model, with the head of its task
    loss: Loss

    def __init__(
        self,
        loss: Loss,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        steps: int,
        val_bytes: float | None,
        clip_norm: float,
        log_every_n_steps: int,
        seed: int,
        on_nan: str = "stop",
        bytes_per_target: float | None = None,
        average: WeightAverage | None = None,
        sharded: bool = False,
        shard_dtype: torch.dtype | None = None,
        adapted: Adapted | None = None,
        part_losses: Sequence[Loss] = (),
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        self.gpt, self.loss, self.task = loss.gpt, loss, loss.task
        self.optimizer, self.schedule, self.steps = optimizer, schedule, steps
        self.batch_sizes = batch_sizes(batch_size, schedule)
        self.val_bytes, self.clip_norm, self.seed = val_bytes, clip_norm, seed
        self.log_every_n_steps, self.on_nan, self.bytes_per_target = log_every_n_steps, on_nan, bytes_per_target
        self.average = average or WeightAverage()
        self.sharded, self.shard_dtype, self.adapted = sharded, shard_dtype, adapted
        self.part_losses = dict(enumerate(part_losses, 1))  # by the number of the held-out set; others have the loss
        self.skipped_step: int | None = None  # the last step, if its gradient was not finite
        self.curves: dict[str, Tensor] = {}  # of the last validation, by metric name
        self.held_out_sums: Sums = {}  # of the last validation, over all ranks
        # of steps since the last log before a checkpoint or another size of batch, over all ranks, (N,)
        self._earlier_losses = torch.empty(0)
        self._losses: list[Tensor] = []  # of this rank's micro-batches since the last log or those steps
        self._gradients: dict[str, Any] = {}  # norm and rate of the last step, from clipping
        self._norms: list[tuple[int, Tensor]] = []  # (step, gradient norm) since the last check
        self._sums: dict[int, list[Sums]] = {}  # of this rank's batches, by the number of the held-out set
        hparams = {name: settings(part) for name, part in self._parts().items()}
        plain = {"steps": steps, "val_bytes": val_bytes, "clip_norm": clip_norm, "seed": seed, "on_nan": on_nan}
        plain |= {"batch_size": batch_size}
        rest = {"log_every_n_steps": log_every_n_steps, "bytes_per_target": bytes_per_target}
        self.save_hyperparameters({**hparams, **plain, **rest, "separator": loss.reading.separator}, logger=False)

    def _parts(self) -> dict[str, Any]:
        return {"task": self.task, "optimizer": self.optimizer, "schedule": self.schedule}

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **changes: Any,
    ) -> "GPTModule":
        """Return the module of a checkpoint with its weights, as Lightning's users expect; no code in it is run.

        `changes` replace what `hparams` holds. Raises UserError where a part is of a package that is not enabled.
        """
        saved = torch.load(checkpoint_path, map_location=map_location or "cpu", weights_only=True)
        why, todo = "holds what an adapter has trained, and not the rest of the model", "take gptlab.load(RUN)"
        require("adapter" not in saved, "checkpoint", checkpoint_path, why, todo)
        hparams = {**saved.get("hyper_parameters", {}), **changes}
        task, optimizer, schedule = (
            part_of(group, hparams.pop(group, None) or {"option": usual, "values": {}})
            for group, usual in {"task": USUAL, "optimizer": "adamw", "schedule": "cosine"}.items()
        )
        config = part_of("model", {"option": saved.get("model_option", "gpt"), "values": saved["model"]})
        loss = Loss(task, task.head(build_model(config)), Reading(hparams.pop("separator", None)))
        usual = {"steps": 1, "val_bytes": None, "clip_norm": 0.0, "seed": 0, "log_every_n_steps": 1}
        module = cls(loss, optimizer, schedule, **{**usual, **hparams})
        module.load_state_dict(saved["state_dict"], strict=strict is not False)
        return module

    def configure_model(self) -> None:
        """Shard the weights once; Lightning calls this for each of its loops."""
        if self.sharded:
            shard(self.gpt, self.device.type, self.trainer.world_size, self.shard_dtype)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the contribution of one micro-batch to the mean loss of its step, in nats per target.

        The mean of these shares over micro-batches and ranks is exact however many targets each of them has, since
        each batch knows how many the whole step has.
        """
        micro_batches = self.trainer.accumulate_grad_batches * self.trainer.world_size
        loss: Tensor = self.loss(*tensors(batch)).sum() / (step_targets(batch) / micro_batches)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        loss = self.part_losses.get(dataloader_idx, self.loss)
        sums = loss.task.measure(loss.figures(*tensors(batch)), batch)
        self._sums.setdefault(dataloader_idx, []).append(sums)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_train_start(self) -> None:
        """Set the learning rate of this config, a checkpoint has that of the config it was made with; and divide the
        first step into micro-batches."""
        self.divide_step()
        schedule: Any = self.lr_schedulers()
        multiplier = self.rate(self.global_step)
        schedule.base_lrs = set_rates(self.trainer.optimizers[0], self.optimizer.lr, multiplier)

    def rate(self, step: int) -> float:
        """Return the multiplier of the learning rate at a step, counted from 0."""
        return rate(self.schedule, self.batch_sizes, step, self.steps)

    def divide_step(self) -> None:
        """Let the next step have as many micro-batches as its size takes; due at the end of each step."""
        if self.batch_sizes.constant:
            return
        data = datamodule_of(self.trainer)
        parts = self.batch_sizes.size(self.global_step) // (data.micro_batch_size * self.trainer.world_size)
        if parts != self.trainer.accumulate_grad_batches:
            self._earlier_losses = self._step_losses()
            self._losses.clear()
            set_accumulation(self.trainer, parts)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the position in training, not by anything that ran before; no two ranks share its noise."""
        part = batch_idx % self.trainer.accumulate_grad_batches
        # (torch.manual_seed also records a traceback for every missing kind of device, which takes 1 ms)
        noise: Any = torch.default_generator if self.device.type == "cpu" else torch.get_device_module(self.device)
        noise.manual_seed(random_seed(self.seed, "dropout", self.global_step, part, self.global_rank))

    def logs_at(self, step: int) -> bool:
        """Return whether training metrics are logged at the end of a step."""
        return step % self.log_every_n_steps == 0 or step == self.steps

    def mean_losses(self) -> list[tuple[int, float]]:
        """Return (step, loss) of each step since the last call, over micro-batches and ranks.

        No step waits for the device in between.
        """
        losses = self._step_losses().tolist()
        self._earlier_losses = torch.empty(0)
        self._losses.clear()
        return list(enumerate(losses, self.global_step - len(losses) + 1))

    def training_metrics(self, losses: list[tuple[int, float]]) -> dict[str, float]:
        """Return the metrics to log for the steps of `losses`: the task's scores of their mean, rate, gradient norm."""
        loss = sum(value for _, value in losses) / len(losses)
        scores = self.task.scores({"nats": loss, "targets": 1}, self.bytes_per_target)
        return {
            **{f"train/{name}": value for name, value in scores.items()},
            **{name: float(value) for name, value in self._gradients.items()},
        }

    def forget(self) -> None:
        """Drop the losses of the steps so far, which then do not count."""
        self._losses.clear()

    def _step_losses(self) -> Tensor:
        """Return the loss of each complete step since the last log, (N,), over micro-batches and ranks, on the CPU."""
        parts = self.trainer.accumulate_grad_batches
        complete = len(self._losses) // parts * parts
        if not complete:
            return self._earlier_losses
        losses = torch.stack(self._losses[:complete]).view(-1, parts).mean(1)
        return torch.cat([self._earlier_losses, reduced(self.trainer, losses, "mean").cpu()])

    def on_validation_epoch_end(self) -> None:
        """Publish the scores of the held-out text, and of the parts of it that are scored by themselves."""
        sizes: dict[str, Any] = getattr(datamodule_of(self.trainer), "val_bytes", {})
        found = {f"val/{name}": value for name, value in self._scores(0, self.val_bytes).items()}
        curves, held_out_sums = self.curves, self.held_out_sums
        for number, (part, n_bytes) in enumerate(sizes.items(), 1):
            scores = self._scores(number, n_bytes if self.val_bytes is not None or self.part_losses else None)
            found |= {f"val/{part}/{name}": value for name, value in scores.items()}
        self.curves, self.held_out_sums = curves, held_out_sums
        publish(self.trainer, found, self.global_step)

    def on_test_epoch_end(self) -> None:
        """Log the same scores as `test/...`, which Trainer.test returns."""
        self.log_dict({f"test/{name}": value for name, value in self._scores(0, self.val_bytes).items()})

    def _scores(self, number: int, n_bytes: float | None) -> dict[str, float]:
        """Score a held-out set exactly over all ranks: sums are summed, never means averaged."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        sums: Sums = {}
        batches = self._sums.pop(number)
        for name in sorted(batches[0]):
            own = torch.stack([batch[name] for batch in batches]).cpu().double().sum(0).to(self.device, exact)
            sums[name] = reduced(self.trainer, own, "sum").cpu().double()
        self.held_out_sums = sums
        task = self.part_losses.get(number, self.loss).task
        self.curves = {f"val/{name}": curve for name, curve in task.curves(sums).items()}
        return task.scores(sums, n_bytes)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer.build(self.gpt)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the global norm, and keep it and the rate.

        Lightning's own refuses fused optimizers under autocast.
        """
        scaler = grad_scaler(self.trainer)
        if scaler is not None and unscales_itself(optimizer):
            scaler.unscale_(optimizer)  # Lightning leaves this to fused optimizers, which do it after clipping
        norm = self.clip(optimizer)
        self._gradients = {"optim/lr": base_rate(optimizer), "optim/grad_norm": norm}
        if scaler is None:  # with a scaler, infinite gradients are part of its search for a scale
            self._norms.append((self.global_step + 1, norm))
        if (
            self.on_nan != "stop" or self.device.type == "cpu"
        ):  # else at the next log, so that no step waits for the device
            self.check_gradients()

    def clip(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Bound the global norm of the gradients; returns the norm before that."""
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params])
        total = full_tensor(norm)
        on_cpu = self.device.type == "cpu"  # there reading the norm is free, and multiplying by 1 is not
        if self.clip_norm and not (on_cpu and total <= self.clip_norm):
            torch.nn.utils.clip_grads_with_norm_(params, self.clip_norm, norm)
        return total

    def check_gradients(self) -> None:
        """Check the gradient norms since the last check; one that is not finite ends the run or skips its step."""
        norms, self._norms = self._norms, []
        finite = torch.stack([norm for _, norm in norms]).isfinite().tolist() if norms else []
        for (step, _), ok in zip(norms, finite, strict=True):
            if not ok and self.on_nan == "stop":
                raise NotFinite(step)
            if not ok:
                self.skipped_step = step
                for p in self.gpt.parameters():
                    p.grad = None  # optimizers skip parameters without gradients

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data, step = datamodule_of(self.trainer), checkpoint["global_step"]
        read_older_checkpoint(checkpoint, data.tokens_per_step)
        micro_batches = data.batch_sizes.start(step) // (data.micro_batch_size * self.trainer.world_size)
        checkpoint["loops"] = restart_loops_at(self.trainer, step, micro_batches)
        self.complete(checkpoint)
        self.average.load(checkpoint, "gpt.", self.gpt)
        self._earlier_losses = torch.tensor([float(loss) for loss in checkpoint["losses"]])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_gradients()
        checkpoint["model"] = asdict(self.gpt.config)
        checkpoint["model_option"] = name_of(self.gpt.config)
        checkpoint["losses"] = list(self._step_losses())  # of steps since the last log
        self.average.save(checkpoint, "gpt.")
        if self.adapted:
            self.adapted.reduce(checkpoint, "gpt.")

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Add to a checkpoint the weights that an adapter does not train, which it does not hold."""
        if self.adapted:
            self.adapted.complete(checkpoint, self.state_dict())
