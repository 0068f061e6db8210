"""Draw the task's pictures at every validation and keep the last ones."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from gptlab.files import write_atomically
from gptlab.runs.run_dir import PICTURES
from gptlab.tasks.base import Detailed
from gptlab.training.callbacks.tensorboard import add_png, writers
from gptlab.training.module import GPTModule


class Pictures(Callback):
    """The pictures of a task that has some: in TensorBoard at every validation, and the last ones as files."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / PICTURES

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GPTModule)
        if not isinstance(pl_module.task, Detailed) or not trainer.is_global_zero:
            return
        for name, png in pl_module.task.pictures(pl_module.held_out_sums).items():
            write_atomically(self.folder / f"{name}.png", png)
            for writer in writers(trainer):
                add_png(writer, f"val/{name}", png, trainer.global_step)
