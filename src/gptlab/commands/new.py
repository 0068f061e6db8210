"""The verb `new`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.errors import require
from gptlab.registry import command

NAME = "own_parts"  # the project in examples/ that serves as the template


@dataclass
class NewConfig:
    """Write a project for your own parts: `gptlab new my_lab`."""

    dir: str = ""  # a new directory, whose name the package gets
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.dir), "dir", "''", "is needed", "give a new directory: gptlab new my_lab")


@command
def new(config: NewConfig) -> dict[str, Any]:
    """Write a project for your own parts, with one of each kind and tests that pass."""
    from gptlab.files import new_folder, require_new

    folder = Path(config.dir).expanduser()
    name = re.sub(r"\W+", "_", folder.name).strip("_").lower()
    require(name.isidentifier(), "dir", config.dir, "its name is none of a Python package", "try my_lab")
    require_new(folder, "dir")
    template = template_dir()
    with new_folder(folder) as work:
        for source in sorted(path for path in template.rglob("*") if path.is_file()):
            relative = source.relative_to(template)
            if "__pycache__" in relative.parts or relative.parts[0] in ("outputs", ".pytest_cache"):
                continue
            target = work / str(relative).replace(NAME, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
    print(f"wrote {folder}; try it: cd {folder} && pytest")
    return {"dir": str(folder), "package": name}


def template_dir() -> Path:
    """Return the project that is copied: inside the package in a wheel, in examples/ of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "examples" / NAME, package.parents[1] / "examples" / NAME) if p.is_dir())
