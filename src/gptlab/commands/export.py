"""The verb `export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require
from gptlab.files import require_new
from gptlab.registry import command


@dataclass
class ExportConfig:
    """Turn a run into a directory that transformers loads: of the first family that computes the same."""

    out: str | None = None  # a new directory
    adapter: str = "merge"  # of a run with one: merge: the whole model | true: it alone, as peft loads it
    run: str = "latest"
    json: bool = False

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR")
        known = self.adapter in ("merge", "true")
        require(known, "adapter", self.adapter, "no such option", "choose one of merge, true")


@command
def export(config: ExportConfig) -> dict[str, Any]:
    """Turn a run into a directory that transformers loads."""
    from gptlab.interop.adapters import export_adapter
    from gptlab.interop.exporting import export_run
    from gptlab.runs.run_dir import RunDir
    from gptlab.tasks.saved import task_of

    assert config.out
    require_new(Path(config.out))
    run = RunDir.find(config.run)
    if config.adapter == "true":
        written = export_adapter(run, Path(config.out))
        print(f"exported {written['parameters']:,} parameters of the adapter into {config.out}")
        return {"out": config.out, **written}
    task: Any = task_of(run.config())
    templates = {"chat_template": task.chat_template} if hasattr(task, "chat_template") else {}
    written = export_run(run, Path(config.out), task.head, **templates)
    print(f"exported {written['parameters']:,} parameters as {written['architecture']} into {config.out}")
    return {"out": config.out, **written}
