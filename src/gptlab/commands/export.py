"""The verb `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require
from gptlab.files import require_new
from gptlab.registry import command

FORMATS = ("hf", "gguf")
DTYPES = ("f32", "f16", "bf16")


@dataclass
class ExportConfig:
    """Turn a run into what other programs load.

    format=hf is a directory of transformers, in the family that computes the same: GPT-2, Llama and others.
    format=gguf is a file of llama.cpp, as GPT-2 or Llama, with matrices of dtype f32, f16 or bf16.
    """

    out: str | None = None  # a new directory, or a new file for gguf
    run: str = "latest"
    format: str = "hf"
    dtype: str = "f32"
    json: bool = False

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR, or out=FILE with format=gguf")
        for key, choices in {"format": FORMATS, "dtype": DTYPES}.items():
            value = getattr(self, key)
            require(value in choices, key, value, "no such option", f"choose one of {', '.join(choices)}")
        only = self.format == "gguf" or self.dtype == "f32"
        require(only, "dtype", self.dtype, "goes with format=gguf", "leave it out")


@command
def export(config: ExportConfig) -> dict[str, Any]:
    """Turn a run into a directory of transformers, or a file of llama.cpp."""
    from gptlab.interop.exporting import export_run
    from gptlab.interop.gguf_file import export_gguf
    from gptlab.runs.run_dir import RunDir
    from gptlab.tasks.saved import task_of

    assert config.out
    out = Path(config.out)
    require_new(out, kind="file" if config.format == "gguf" else "directory")
    run = RunDir.find(config.run)
    head = task_of(run.config()).head
    gguf = config.format == "gguf"
    written = export_gguf(run, out, config.dtype, head) if gguf else export_run(run, out, head)
    print(f"exported {written['parameters']:,} parameters as {written['architecture']} into {config.out}")
    return {"out": config.out, **written}
