"""Refuse what a run cannot be, before torch is imported and data are read: seconds that a mistake need not wait for.

What is refused here is refused again where it is used; what cannot be told without torch is told there alone.
"""

from pathlib import Path

from gptlab.data.config import BatchConfig
from gptlab.data.text.instructions import Instructions
from gptlab.data.text.labelled import Labelled
from gptlab.data.text.preferences import Preferences
from gptlab.data.text.sources import Files, Mixture, TokenFiles, matching
from gptlab.distributed.devices import may_have_gpu
from gptlab.errors import require
from gptlab.interop.hub_directory import in_hub_format
from gptlab.runs.reader import expand
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.distill import Distill
from gptlab.tokenizers.saved import Saved
from gptlab.training.config import TrainConfig
from gptlab.training.trainer import TrainerConfig

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = (
    *("auto", "32-true", "32", "64-true", "64", "16-mixed", "16", "bf16-mixed", "bf16", "bf16-true"),
    *("transformer-engine", "transformer-engine-float16"),
)


def require_possible(config: TrainConfig) -> None:
    """Refuse devices that are not there, and runs and files that do not exist; raises UserError."""
    require_devices(config.trainer)
    if config.resume and config.resume != "auto":
        RunDir.find_as("resume", config.resume, without_checkpoint=True)
    if config.init_from and not config.resume and not in_hub_format(config.init_from):
        RunDir.find_as("init_from", config.init_from)
    require_files(config.data)
    if isinstance(config.task, Distill) and not config.resume:
        for name in expand(config.task.teacher):
            RunDir.find_as("task.teacher", name)
    if isinstance(config.tokenizer, Saved):
        folder = config.tokenizer.folder
        there = Path(folder).expanduser().is_dir() or config.resume or config.init_from
        require(bool(there), "tokenizer.folder", folder, "no such folder", "give RUN/tokenizer")


def require_devices(trainer: TrainerConfig) -> None:
    """Refuse an accelerator or a precision that is none, or that this machine does not have for certain."""
    kind, precision = trainer.accelerator, trainer.precision
    known = f"choose one of {', '.join(ACCELERATORS)}"
    require(kind in ACCELERATORS, "trainer.accelerator", kind, "no such accelerator", known)
    there = kind not in ("gpu", "cuda") or may_have_gpu()
    require(there, "trainer.accelerator", kind, "this machine has no GPU", "try trainer=cpu")
    known = f"choose one of {', '.join(PRECISIONS)}"
    require(precision in PRECISIONS, "trainer.precision", precision, "no such precision", known)
    half = kind == "cpu" and precision == "16-mixed"
    require(not half, "trainer.precision", "16-mixed", "a CPU does not have it", "try bf16-mixed or bf16-true")


def require_files(data: BatchConfig) -> None:
    """Refuse text, examples and tokens whose files are not there."""
    if isinstance(data, Mixture):
        for part in data.parts.values():
            require_files(part)
    elif isinstance(data, Files | Instructions | Labelled | Preferences):
        if data.files or isinstance(data, Files):  # the others have examples of their own
            matching(data.files, "data.files")
        if data.val_files:
            matching(data.val_files, "data.val_files")
    elif isinstance(data, TokenFiles) and data.folder is not None:
        there = (Path(data.folder).expanduser() / "manifest.json").is_file()
        why, todo = "is not a folder of tokens", "give one that `gptlab tokenize out=` has made"
        require(there, "data.folder", data.folder, why, todo)
