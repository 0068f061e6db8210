"""The verb `report`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.errors import require
from gptlab.files import followed, require_writable, write_atomically
from gptlab.registry import command


@dataclass
class ReportConfig:
    """Show all runs below some folders as one table, pictures and a web page."""

    runs: str | list[str] = "outputs"  # a folder or several, [DIR,DIR], also with *; or latest
    out: str | None = None  # a folder; null: `report` in the folder of the runs
    pictures: bool = True  # draw curves as files too (needs gptlab[report])
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.folders) and all(self.folders), "runs", self.runs, "is empty", "give a folder, or [DIR,DIR]")

    @property
    def folders(self) -> list[str]:
        return self.runs if isinstance(self.runs, list) else [self.runs]


@command
def report(config: ReportConfig) -> dict[str, Any]:
    """Show all runs below some folders: one table, pictures, a web page.

    Prints the table; writes report.md, report.csv, report.html and PNGs into `out`; returns the table.
    """
    from gptlab.reporting import page, pictures, table
    from gptlab.reporting.rows import tabulate
    from gptlab.runs.reader import find_runs

    drawings = {"curves": pictures.curves, "best_so_far": pictures.best_so_far, "swept": pictures.swept}
    if config.pictures:
        pictures.require_matplotlib()
    records = find_runs(config.folders)
    out = Path(config.out).expanduser() if config.out else _beside(config.folders)
    require_writable("out", out, out)
    found = tabulate(records)
    console = Console()
    table.show(console, found)
    drawn = {name: png for name, draw in drawings.items() if (png := draw(found))} if config.pictures else {}
    write_atomically(out / "report.md", table.markdown(found).encode("utf-8", "backslashreplace"))
    write_atomically(out / "report.csv", table.comma_separated(found).encode("utf-8", "backslashreplace"))
    for name, png in drawn.items():
        write_atomically(out / f"{name}.png", png)
    page.write(out / "report.html", found, drawn)
    console.print(f"the page is {out / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    more = {"importance": found.importance} if found.importance else {}
    return {"runs": table.records(found), "notes": found.notes, **more, "out": str(out)}


def _beside(names: list[str]) -> Path:
    """Return the folder `report` in the deepest folder that contains all the given ones."""
    from gptlab.runs.reader import expand
    from gptlab.runs.run_dir import LATEST

    given = (LATEST if name == "latest" else Path(name).expanduser() for name in expand(names))
    folders = [followed(path).absolute() for path in given]
    common = Path(os.path.commonpath(folders)) / "report"
    relative = os.path.relpath(common)
    return common if relative.startswith("..") else Path(relative)
