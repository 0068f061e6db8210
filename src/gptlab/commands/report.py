"""The verb `report`: one table of all runs below some folders, and their pictures, as files and as a web page."""

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.commands.configs import ReportConfig
from gptlab.files import write_atomically
from gptlab.reporting import page, pictures, table
from gptlab.reporting.rows import tabulate
from gptlab.runs.reader import expand, find_runs
from gptlab.runs.run_dir import LATEST

DRAWN = {"curves": pictures.curves, "best_so_far": pictures.best_so_far, "swept": pictures.swept}


def report(config: ReportConfig) -> dict[str, Any]:
    """Print the table; write report.md, report.csv, report.html and PNGs into `out`; returns the table."""
    if config.pictures:
        pictures.require_matplotlib()
    found = tabulate(find_runs(config.runs))
    out = Path(config.out).expanduser() if config.out else _beside(config.runs)
    console = Console()
    table.show(console, found)
    drawn = {name: png for name, draw in DRAWN.items() if (png := draw(found))} if config.pictures else {}
    write_atomically(out / "report.md", table.markdown(found).encode("utf-8", "backslashreplace"))
    write_atomically(out / "report.csv", table.comma_separated(found).encode("utf-8", "backslashreplace"))
    for name, png in drawn.items():
        write_atomically(out / f"{name}.png", png)
    page.write(out / "report.html", found, drawn)
    console.print(f"the page is {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return {"runs": table.records(found), "notes": found.notes, "out": str(out)}


def _beside(names: list[str]) -> Path:
    """`report` in the folder that all given ones are in."""
    folders = [(LATEST if name == "latest" else Path(name).expanduser()).absolute() for name in expand(names)]
    common = Path(os.path.commonpath(folders)) / "report"
    relative = os.path.relpath(common)
    return common if relative.startswith("..") else Path(relative)
