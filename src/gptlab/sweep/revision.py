"""Run the code of another git revision: its files, and the environment in which processes find them first."""

import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from gptlab.errors import UserError, require
from gptlab.files import new_folder
from gptlab.plugins import INHERITED


@dataclass(frozen=True)
class Revision:
    """A commit of the repository that the working directory is in."""

    sha: str
    root: Path  # of the repository

    @classmethod
    def find(cls, name: str) -> "Revision":
        """Return the commit that git calls `name`; raises UserError where there is none, or no repository."""
        try:
            root = _git(Path.cwd(), "rev-parse", "--show-toplevel").decode().strip()
            sha = _git(Path.cwd(), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except (OSError, subprocess.CalledProcessError) as error:
            why = "names no commit of a git repository here"
            raise UserError("revision", name, why, "start from its folder, and give a branch or a commit") from error
        return cls(sha.decode().strip(), Path(root))

    def is_here(self) -> bool:
        """Tell whether the files that git knows are those of the revision."""
        asked = ["git", "-C", str(self.root), "diff", "--quiet", self.sha, "--"]
        return subprocess.run(asked, check=False, capture_output=True).returncode == 0

    def write(self, folder: Path) -> Path:
        """Write the revision's files into `folder`, named by its hash, unless they are there; return where they are."""
        path = folder / self.sha
        if not path.exists():
            with (
                new_folder(path) as work,
                tarfile.open(fileobj=io.BytesIO(_git(self.root, "archive", self.sha))) as files,
            ):
                files.extractall(work, filter="data")
        return path

    def environment(self, code: Path) -> dict[str, str]:
        """Return the variables with which a process runs the files in `code`: gptlab's own, and those of plugins."""
        paths = [str(path) for path in (code / "src", code) if path.is_dir()]
        before = os.environ.get("PYTHONPATH")
        found = {"PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])])}
        found["PYTHONSAFEPATH"] = "1"  # not the working directory first
        inherited = json.loads(os.environ.get(INHERITED, "{}"))
        for key, places in {"folder": [inherited.get("folder")], "conf": inherited.get("conf", [])}.items():
            moved = [self._moved(Path(place), code) for place in places if place]
            if moved:
                inherited[key] = moved[0] if key == "folder" else moved
        return found | ({INHERITED: json.dumps(inherited)} if inherited else {})

    def _moved(self, place: Path, code: Path) -> str:
        """Return where a folder of the repository is in the revision's files."""
        place = place.resolve()
        inside = place.is_relative_to(self.root.resolve())
        return str(code / place.relative_to(self.root.resolve())) if inside else str(place)


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True).stdout


def require_other(revision: Revision, name: str) -> None:
    """Refuse a revision whose files are those that are here."""
    why, todo = "is the code that is here: it changes nothing", "give another revision"
    require(not revision.is_here(), "revision", name, why, todo)
