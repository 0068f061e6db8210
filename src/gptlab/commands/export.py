"""The verb `export`: a run becomes a directory that transformers loads with no code of ours."""

from pathlib import Path
from typing import Any

from gptlab.commands.configs import ExportConfig
from gptlab.interop.exporting import export_run


def export(config: ExportConfig) -> dict[str, Any]:
    """Write `out` whole or not at all; return what was written."""
    written = export_run(config.run, Path(config.out))
    print(f"exported {written['parameters']:,} parameters as {written['architecture']} into {config.out}")
    return {"out": config.out, **written}
