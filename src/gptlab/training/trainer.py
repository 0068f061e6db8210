"""Define the settings of Lightning's Trainer; Lightning itself is imported when it is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.distributed.processes import cluster_environment, place
from gptlab.errors import UserError, require
from gptlab.registry import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import Callback, Trainer


@option("trainer", "default")
@dataclass
class TrainerConfig:
    """The settings of Lightning's Trainer that a run may choose; names and meanings are Lightning's."""

    accelerator: str = "auto"  # auto | cpu | gpu | mps | tpu: the kind of device
    devices: Any = "auto"  # on each machine: a number, a list, or auto: all, or as torchrun or srun says
    num_nodes: int = 1  # machines, on each of which torchrun or srun has started the run
    strategy: str = "auto"  # Lightning's, or fsdp: weights, gradients and optimizer state sharded over the devices
    # bf16-mixed | 16-mixed | bf16-true (fp32 master weights) | auto: what the device has
    precision: str = "32-true"
    activation_checkpointing: bool = False  # the backward pass computes the blocks again: less memory, more time
    gradient_clip_val: float = 1.0  # largest global norm of gradients; 0 turns it off
    val_every_n_steps: int = 150  # steps from one validation to the next; samples are drawn then too
    val_at_start: bool = False  # validate before the first step, too
    max_minutes: float | None = None  # after this time the run stops, and can be resumed
    detect_anomaly: bool = False  # name the operator whose gradient is not finite; slow
    profile: bool = False  # RUN/profile: a Chrome trace of a few steps, and a table of their slowest operators
    deterministic: bool = False  # refuse operators whose results vary from run to run
    enable_progress_bar: bool = True  # a bar for the whole run, in a terminal

    def __post_init__(self) -> None:
        self.precision = str(self.precision)
        half = self.precision == "16-true"
        require(not half, "precision", "16-true", "has no room for small gradients", "try 16-mixed")
        clip = self.gradient_clip_val
        require(clip >= 0, "gradient_clip_val", clip, "is negative", "1.0 is usual, 0 turns it off")
        minutes = self.max_minutes
        require(minutes is None or minutes > 0, "max_minutes", minutes, "is not above 0", "leave it out")
        for key in ("val_every_n_steps", "num_nodes"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1", "try 1 or more")

    @property
    def sharded(self) -> bool:
        return self.strategy == "fsdp"

    def build(self, steps: int, callbacks: Sequence[Callback], run_dir: Path) -> Trainer:
        """Build Lightning's Trainer, without loggers: they write files, and some mistakes are found only later."""
        import lightning as L

        from gptlab.training.callbacks.checkpointing import CheckpointFiles
        from gptlab.training.lightning_internals import TRAINER_MISTAKES, profiler, sharded_strategy
        from gptlab.training.precision import compute_dtype

        here, nodes = place(), self.num_nodes
        why, todo = "its processes must be started on each machine", "start them by torchrun or srun"
        require(here is not None or nodes == 1, "trainer.num_nodes", nodes, why, todo)
        try:
            trainer = L.Trainer(
                accelerator=self.accelerator,
                devices=here.per_node if here and self.devices == "auto" else self.devices,
                num_nodes=nodes,
                strategy=sharded_strategy() if self.sharded else self.strategy,
                precision="32-true" if compute_dtype(self.precision) else self.precision,  # type: ignore[arg-type]
                plugins=[CheckpointFiles(), cluster_environment()],
                profiler=profiler(run_dir / "profile") if self.profile else None,
                detect_anomaly=self.detect_anomaly,
                deterministic=self.deterministic,
                max_steps=steps,
                check_val_every_n_epoch=None,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,  # our sampler knows the ranks
                log_every_n_steps=1,
                logger=False,
                callbacks=list(callbacks),
                enable_progress_bar=False,  # ours is one of the callbacks
                enable_model_summary=False,
                enable_checkpointing=True,  # ours is one of the callbacks
                default_root_dir=run_dir,
            )
        except TRAINER_MISTAKES as error:
            why = " ".join(str(error).split())
            named = [key for key in ("precision", "strategy", "devices") if key in why.lower()]
            key = named[0] if named else "accelerator"
            raise UserError(f"trainer.{key}", getattr(self, key), why, "choose what this machine has") from error
        if here:
            why = f"on each of {nodes} machine(s), but {here.by} has started {here.per_node} on each of {here.nodes}"
            todo = f"give trainer.devices={here.per_node} trainer.num_nodes={here.nodes}"
            same = (trainer.num_devices, nodes) == (here.per_node, here.nodes)
            require(same, "trainer.devices", self.devices, why, todo)
        return trainer
