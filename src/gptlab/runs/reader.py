"""Read run directories, complete or damaged, as far as they are written: the one reader of every command.

They may come from anywhere. Files are read up to a size, pipes and devices are never waited for, and a run that cannot
be read is `unreadable`, never an error.
"""

import contextlib
import glob
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gptlab.batch_sizes import MOST, BatchSizes, orderly
from gptlab.errors import UserError, printable, require
from gptlab.files import followed, read_bounded, read_json
from gptlab.runs.config_file import flat, read_config, values_of
from gptlab.runs.run_dir import HELD_OUT, LARGEST, LATEST, PICTURES
from gptlab.tokenizers import fingerprint

SILENT = 900  # seconds without a word after which a running run may be none any more
MOST_BYTES = 1 << 28  # of a file of text that is read
MOST_PICTURES, LARGEST_PICTURE = 4, 1 << 20  # of a run, and bytes
PNG = b"\x89PNG\r\n\x1a\n"  # how each of them begins


@dataclass
class RunRecord:
    """A run as read from its directory, in whatever state that is; fields that cannot be read are empty."""

    path: Path
    name: str  # short, of its own among all
    config: dict[str, Any] = field(default_factory=dict)  # its values may be those of other runs, too
    summary: dict[str, Any] = field(default_factory=dict)
    status: str = "unknown"  # a run's own, or unknown (no summary) or unreadable
    silent: float = 0.0  # seconds since a running run has written something

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The values of config.yaml by dotted keys; the option of a part is at its own name."""
        parts = self.config.get("parts")
        return (dict(parts) if isinstance(parts, dict) else {}) | flat(values_of(self.config))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a step of the first size, on average as far as the run has counted; 0 where it is not known."""
        steps, tokens, sizes = self.figure("steps"), self.figure("tokens"), self.batch_sizes
        if steps and tokens and (read := sizes.start(int(steps))):
            return round(tokens * sizes.first / read)
        if (self.path / "held_out" / HELD_OUT["examples"]).exists():  # of any length
            return 0
        batch_size, block_size = self._setting("data", "batch_size"), self._setting("model", "block_size")
        known = all(isinstance(size, int) and 0 < size < 1 << 40 for size in (batch_size, block_size))
        return batch_size * block_size if known else 0

    @property
    def batch_sizes(self) -> BatchSizes:
        """The sequences of each step; of one each where that is not known."""
        first, changes = self._setting("data", "batch_size"), self._setting("schedule", "batch")
        known = type(first) is int and 0 < first <= MOST
        return BatchSizes(first if known else 1, changes if known and orderly(changes) else ())

    @property
    def data_hash(self) -> str | None:
        """The SHA-256 of the text; None if not known."""
        found = self.summary.get("data_hash") or _object(self.path / "held_out/manifest.json").get("sha256")
        return found if isinstance(found, str) else None

    @cached_property
    def tokenizer(self) -> str | None:
        """The SHA-256 of the tokenizer; None if there is none yet, or it cannot be read."""
        folder = self.path / "tokenizer"
        try:
            return fingerprint(folder) if any(folder.glob("*")) else None
        except (OSError, UserError):
            return None

    @property
    def prompts(self) -> list[str]:
        """The prompts that the run continues while it is trained."""
        found = self.config.get("sample_prompts")
        return [str(prompt) for prompt in found] if isinstance(found, list) else []

    def figure(self, key: str, otherwise: float | None = None) -> float | None:
        """Return a finite number of the summary, or its substitute."""
        found = finite(self.summary.get(key))
        return otherwise if found is None else found

    def text(self, name: str) -> str:
        """Return one of the run's files of text; empty if there is none, or it cannot be read."""
        try:
            return read_bounded(self.path / name, MOST_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    @property
    def pictures(self) -> dict[str, bytes]:
        """The pictures that the run's task has drawn of its last validation, PNG by name."""
        found = {}
        for path in sorted((self.path / PICTURES).glob("*.png"))[:MOST_PICTURES]:
            with contextlib.suppress(OSError):
                content = read_bounded(path, LARGEST_PICTURE)
                if content.startswith(PNG):
                    found[path.stem] = content
        return found

    def _setting(self, group: str, key: str) -> Any:
        values = self.config.get(group)
        return values.get(key) if isinstance(values, dict) else None


def find_runs(names: Sequence[str]) -> list[RunRecord]:
    """Read all runs in the given folders and below, in the order of their paths, each once.

    Links below them are not followed, and folders whose name begins with a dot, such as .ipynb_checkpoints, are
    skipped.
    """
    found: dict[Path, None] = {}
    for name in expand(names):
        top = followed(LATEST if name == "latest" else Path(name).expanduser()).resolve()
        require(top.is_dir(), "runs", name, "no such directory", "give folders that hold runs, such as runs=outputs")
        for folder, inner, files in os.walk(top):
            if "config.yaml" in files:
                found[Path(folder)] = None
                inner.clear()
            inner[:] = [each for each in inner if not each.startswith(".")]
    asked = ", ".join(names)
    require(bool(found), "runs", asked, "there is no run in it", "train one first, or give the folder of some")
    paths = sorted(found, key=lambda path: natural(str(path)))
    top = Path(os.path.commonpath(paths)) if len(paths) > 1 else paths[0].parent
    known: dict[str, Any] = {}
    return [_shared(read_run(path, str(path.relative_to(top))), known) for path in paths]


def _shared(run: RunRecord, known: dict[str, Any]) -> RunRecord:
    """Return a run whose config and summary hold the values of others that are written alike: most runs share most."""
    for values in (run.config, run.summary):
        for key in list(values):
            value = values.pop(key)
            values[sys.intern(key)] = known.setdefault(repr(value), value)
    return run


def expand(names: Sequence[str]) -> list[str]:
    """Return the paths that names with * and ? match: folders of a sweep have names that are hard to type."""
    found: list[str] = []
    for name in names:
        pattern = os.path.expanduser(name)
        matches = [] if os.path.exists(pattern) else sorted(glob.glob(pattern), key=natural)
        found += matches or [name]
    return found


def read_run(path: Path, name: str) -> RunRecord:
    """Read a run directory, complete or not."""
    run = RunRecord(path, printable(name))
    try:
        run.config = read_config(path / "config.yaml")
    except UserError:
        run.status = "unreadable"
    run.summary = _object(path / "summary.json")
    if run.summary:
        run.status = printable(str(run.summary.get("status", run.status)))
    elif os.path.lexists(path / "summary.json"):
        run.status = "unreadable"
    if run.status == "running":
        run.silent = max(0.0, time.time() - _last_written(path))
    return run


def finite(value: Any) -> float | None:
    """Return a finite number that a file holds; None for all else, such as a text, `true`, or one of 400 digits."""
    known = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return float(value) if known else None


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key by which 10 comes after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; {} if there is none."""
    try:
        found = read_json(path, LARGEST["held_out/manifest.json"])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_written(path: Path) -> float:
    """Return the time when a file of the folder was last written, in seconds since 1970; 0 if there is none."""
    try:
        with os.scandir(path) as entries:
            return max((entry.stat().st_mtime for entry in entries if entry.is_file()), default=0.0)
    except OSError:  # of a folder that is being removed
        return 0.0
