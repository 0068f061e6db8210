"""The verb `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require
from gptlab.files import require_new
from gptlab.registry import command


@dataclass
class ExportConfig:
    """Turn a run into a directory that transformers loads: as GPT-2 or as Llama."""

    out: str | None = None  # a new directory
    run: str = "latest"  # a run directory, one of its checkpoints, or latest
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR")


@command
def export(config: ExportConfig) -> dict[str, Any]:
    """Turn a run into a directory that transformers loads."""
    from gptlab.runs.run_dir import RunDir

    assert config.out
    require_new(Path(config.out))
    run = RunDir.find(config.run)  # before torch is imported

    from gptlab.interop.exporting import export_run
    from gptlab.tasks.saved import task_of

    written = export_run(run, Path(config.out), task_of(run.config()).head)
    print(f"exported {written['parameters']:,} parameters as {written['architecture']} into {config.out}")
    return {"out": config.out, **written}
