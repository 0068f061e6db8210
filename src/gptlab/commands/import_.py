"""The verb `import`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require
from gptlab.registry import command


@dataclass
class ImportConfig:
    """Turn a Hugging Face model into a run directory."""

    hf: str | None = None  # a directory, or OWNER/NAME on the hub
    out: str | None = None  # a new directory
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.hf), "hf", self.hf or "null", "is needed", "give hf=DIR or hf=OWNER/NAME")
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR")


@command
def import_(config: ImportConfig) -> dict[str, Any]:
    """Turn a Hugging Face model into a run directory."""
    from gptlab.interop.importing import import_directory

    assert config.hf and config.out
    summary = import_directory(config.hf, Path(config.out))
    for line in summary["said"]:
        print(line)
    print(f"imported {summary['parameters']:,} parameters into {config.out}")
    return {**summary, "run_dir": config.out}
