"""The verb `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require, require_choice
from gptlab.files import require_new
from gptlab.registry import command

FORMATS = ("hf", "gguf")
DTYPES = ("f32", "f16", "bf16")


@dataclass
class ExportConfig:
    """Turn a run into what other programs load.

    format=hf is a directory of transformers, in the family that computes the same: GPT-2, Llama and others. A
    classifier is one for sequence classification.
    format=gguf is a file of llama.cpp, as GPT-2 or Llama, with matrices of dtype f32, f16 or bf16.
    """

    out: str | None = None  # a new directory, or a new file for gguf
    adapter: str = "merge"  # of a run with one: merge: the whole model | true: it alone, as peft loads it
    run: str = "latest"  # a run directory, one of its checkpoints, or latest
    format: str = "hf"  # hf: a directory of transformers | gguf: a file of llama.cpp
    dtype: str = "f32"  # f32 | f16 | bf16: of the matrices in a gguf
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR, or out=FILE with format=gguf")
        for key, choices in {"format": FORMATS, "dtype": DTYPES, "adapter": ("merge", "true")}.items():
            require_choice(key, getattr(self, key), choices)
        only = self.format == "gguf" or self.dtype == "f32"
        require(only, "dtype", self.dtype, "goes with format=gguf", "leave it out")
        alone = self.adapter == "merge" or self.format == "hf"
        require(alone, "adapter", self.adapter, "goes with format=hf", "leave it out, to export the whole model")


@command
def export(config: ExportConfig) -> dict[str, Any]:
    """Turn a run into a directory of transformers or of peft, or a file of llama.cpp."""
    from gptlab.runs.run_dir import RunDir

    assert config.out
    out = Path(config.out)
    require_new(out, kind="file" if config.format == "gguf" else "directory")
    run = RunDir.find(config.run)  # before torch is imported

    from gptlab.interop.adapters import export_adapter
    from gptlab.interop.exporting import export_run
    from gptlab.interop.gguf_file import export_gguf
    from gptlab.tasks.classification import Classification
    from gptlab.tasks.saved import task_of

    task: Any = task_of(run.config())
    templates = {"chat_template": task.chat_template} if hasattr(task, "chat_template") else {}
    if config.adapter == "true":
        written = export_adapter(run, out)
    elif config.format == "gguf":
        written = export_gguf(run, out, config.dtype, task.head)
    else:
        labels = task.labels if isinstance(task, Classification) else None
        written = export_run(run, out, task.head, labels=labels, **templates)
    print(f"exported {written['parameters']:,} parameters as {written['architecture']} into {config.out}")
    return {"out": config.out, **written}
