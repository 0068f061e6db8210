"""The verb `import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require
from gptlab.registry import command


@dataclass
class ImportConfig:
    """Turn a model of another program into a run directory.

    hf is a Hugging Face directory, or OWNER/NAME on the hub. checkpoint is nanoGPT's ckpt.pt, LitGPT's folder, or a
    state dict of the GPTModel of Build a Large Language Model (From Scratch), which needs n_head: it does not tell it.
    """

    hf: str | None = None  # a Hugging Face directory, or OWNER/NAME on the hub
    checkpoint: str | None = None  # another trainer's checkpoint, instead of hf
    n_head: int | None = None  # heads of the model, where a checkpoint does not say
    out: str | None = None  # a new directory
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        some = self.hf or self.checkpoint
        require(bool(some), "hf", self.hf or "null", "is needed", "give hf=DIR or hf=OWNER/NAME, or checkpoint=FILE")
        both = self.hf and self.checkpoint
        require(not both, "checkpoint", self.checkpoint, "and hf are given", "give one of them")
        only = self.n_head is None or self.checkpoint
        require(bool(only), "n_head", self.n_head, "goes with checkpoint=FILE", "leave it out")
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR")


@command
def import_(config: ImportConfig) -> dict[str, Any]:
    """Turn a model of Hugging Face, nanoGPT, LitGPT or a book into a run directory."""
    from gptlab.interop.places import checkpoint_file, local_directory

    assert config.out
    if config.checkpoint:
        checkpoint_file(config.checkpoint)
        from gptlab.interop.checkpoint import import_checkpoint

        summary = import_checkpoint(config.checkpoint, Path(config.out), config.n_head)
    else:
        assert config.hf
        local_directory(config.hf)
        from gptlab.interop.importing import import_directory

        summary = import_directory(config.hf, Path(config.out))
    for line in summary["said"]:
        print(line)
    print(f"imported {summary['parameters']:,} parameters into {config.out}")
    return {**summary, "run_dir": config.out}
