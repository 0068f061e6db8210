"""The verb `import`: a Hugging Face directory of GPT-2 or Llama becomes a run directory."""

from pathlib import Path
from typing import Any

from gptlab.commands.configs import ImportConfig
from gptlab.interop.importing import import_directory


def import_(config: ImportConfig) -> dict[str, Any]:
    """Write `out` whole or not at all; return its summary."""
    summary = import_directory(config.hf, Path(config.out))
    print(f"imported {summary['parameters']:,} parameters into {config.out}")
    return {**summary, "run_dir": config.out}
