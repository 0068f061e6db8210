"""The runs below some folders, as far as they are written: what they were asked, what came of it, where they differ."""

import glob
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.errors import UserError, require
from gptlab.runs.config_file import flat, read_config, values_of
from gptlab.runs.run_dir import LATEST
from gptlab.tokenizers import fingerprint

SILENT = 900  # seconds without a word after which a running run may be none any more
# what does not change a run's numbers
WITHOUT_EFFECT = {
    *("json", "name", "resume", "run_dir", "sample_prompts", "data.num_workers"),
    *("data.micro_batch_size", "data.other_data_ok", "budget.seconds_per_step", "trainer.enable_progress_bar"),
}
GROUPS_WITHOUT_EFFECT = ("checkpoint.", "logger.", "decoder.")


@dataclass
class Run:
    """A run directory, whatever state it is in; what cannot be read is empty."""

    path: Path
    name: str  # short, of its own among all
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    status: str = "unknown"  # a run's own, or unknown (no summary) or unreadable
    silent: float = 0.0  # seconds since a running run has written something

    @property
    def settings(self) -> dict[str, Any]:
        """config.yaml as dotted keys; the option of a part is at its own name."""
        return dict(self.config.get("parts", {})) | flat(values_of(self.config))

    @property
    def tokens_per_step(self) -> int:
        """0 if nobody knows."""
        data, model = self.config.get("data"), self.config.get("model")
        if not isinstance(data, dict) or not isinstance(model, dict):
            return 0
        return int(data.get("batch_size") or 0) * int(model.get("block_size") or 0)

    @property
    def data_hash(self) -> str | None:
        """Of the text; None if nobody knows."""
        return self.summary.get("data_hash") or _read_json(self.path / "held_out/manifest.json").get("sha256")

    @property
    def tokenizer(self) -> str | None:
        """Which one: a hash of its files; None if it has none yet."""
        folder = self.path / "tokenizer"
        return fingerprint(folder) if any(folder.glob("*")) else None

    def figure(self, key: str, otherwise: float | None = None) -> float | None:
        """A number of the summary."""
        value = self.summary.get(key)
        return float(value) if isinstance(value, int | float) else otherwise


def find_runs(names: Sequence[str]) -> list[Run]:
    """All runs at or below the given folders, by their paths, each once; links below them are not followed."""
    found: dict[Path, None] = {}
    for name in expand(names):
        top = (LATEST if name == "latest" else Path(name).expanduser()).resolve()
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
    return [read(path, str(path.relative_to(top))) for path in paths]


def expand(names: Sequence[str]) -> list[str]:
    """Names with * and ? as the paths that they match: the folders of a sweep have names that are hard to type."""
    found: list[str] = []
    for name in names:
        pattern = os.path.expanduser(name)
        matches = [] if os.path.exists(pattern) else sorted(glob.glob(pattern), key=natural)
        found += matches or [name]
    return found


def read(path: Path, name: str) -> Run:
    """A run directory as it is, whole or not."""
    run = Run(path, name)
    try:
        run.config = read_config(path / "config.yaml")
    except UserError:
        run.status = "unreadable"
    run.summary = _read_json(path / "summary.json")
    if run.summary:
        run.status = str(run.summary.get("status", run.status))
    elif (path / "summary.json").exists():
        run.status = "unreadable"
    if run.status == "running":
        written = [file.stat().st_mtime for file in path.glob("*") if file.is_file()]
        run.silent = max(0.0, time.time() - max(written, default=0.0))
    return run


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """What was asked differently: dotted key -> the value of each run, None where it has none.

    A component's fields are left out where its class says as much (`optimizer` for `optimizer.momentum`), the model's
    where the run's `name` does, the size of its vocabulary where the tokenizer does. Runs of which a whole part is not
    known differ in nothing of it.
    """
    settings = [run.settings for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each)
    ignored = (WITHOUT_EFFECT - {"name"}) | {key for key in keys if key.startswith(("logger.", "checkpoint."))}
    columns = {key: [each.get(key) for each in settings] for key in keys if key not in ignored}
    if "model.vocab_size" in columns and _follows(columns["model.vocab_size"], [run.tokenizer for run in runs]):
        del columns["model.vocab_size"]  # none is padded
    known = {key: [key.partition(".")[0] in run.config for run in runs] for key in columns}
    differing = {
        key: values
        for key, values in columns.items()
        if len({repr(value) for value, there in zip(values, known[key], strict=True) if there}) > 1
    }
    return {
        key: values
        for key, values in differing.items()
        if (above := _above(key)) not in differing or not _follows(values, differing[above])
    }


def same_but_seed(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs in groups that differ in nothing but the seed and what has no effect: the same text, model, budget."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        asked = {
            key: value
            for key, value in run.settings.items()
            if key != "seed" and key not in WITHOUT_EFFECT and not key.startswith(GROUPS_WITHOUT_EFFECT)
        }
        alone = str(run.path) if not asked else ""  # nothing is known of it
        key = repr((sorted(asked.items()), run.data_hash, alone))
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def natural(text: str) -> list[tuple[int, str]]:
    """A key to sort by, in which 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def _read_json(path: Path) -> dict[str, Any]:
    """An object in a file, {} if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _above(key: str) -> str:
    """The key that may say all of it."""
    return "name" if key.startswith("model.") else key.partition(".")[0] if "." in key else ""


def _follows(values: list[Any], above: list[Any]) -> bool:
    """Whether each value of `above` has one of `values`."""
    pairs = set(zip(map(repr, above), map(repr, values), strict=True))
    return len(pairs) == len(set(map(repr, above)))
