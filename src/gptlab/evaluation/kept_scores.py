"""Keep what a run was found to do on tasks with it, as RUN/tasks/TASK.json, and read the scores again."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptlab.checksums import checksums
from gptlab.errors import UserError
from gptlab.files import read_object, write_atomically
from gptlab.metrics import shown_in
from gptlab.runs.run_dir import RunDir

FOLDER = "tasks"  # of a run
MOST_BYTES = 1 << 26  # of a file in it
LAST = "last.ckpt"


def keep(run: RunDir, task: str, result: dict[str, Any]) -> str:
    """Write a result as RUN/tasks/TASK.json, with the checkpoint's name where it is not the last; return its path."""
    which = "" if run.checkpoint.name == LAST else f"-{run.checkpoint.stem}"
    path = run.path / FOLDER / f"{task}{which}.json"
    write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    return str(path)


def of_checkpoint(run: RunDir) -> dict[str, str | None]:
    """Return what a result says of the checkpoint that it is of: its name, and its SHA-256 where that is listed."""
    return {"checkpoint": run.checkpoint.name, "checkpoint_sha256": _listed(run.path, run.checkpoint.name)}


def kept_scores(path: Path, checkpoint: str = LAST) -> dict[str, float]:
    """Return the scores that a run keeps of one checkpoint, by task and metric: `qa acc`, or lm-eval's `arc acc,none`.

    What was found of another checkpoint of that name, before the run went on, is left out, and so are other files.
    """
    found: dict[str, float] = {}
    files = sorted((path / FOLDER).glob("*.json"))
    now = _listed(path, checkpoint) if files else None
    for file in files:
        try:
            result = read_object("run", file, MOST_BYTES, "evaluate the task again")
        except UserError:
            continue
        then = result.get("checkpoint_sha256")
        if result.get("checkpoint", LAST) == checkpoint and (now is None or then in (None, now)):
            task = file.stem if checkpoint == LAST else file.stem.removesuffix(f"-{Path(checkpoint).stem}")
            found |= {f"{task} {name}": value for name, value in _scores(result)}
    return found


def _scores(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the figures of our own metrics, or those of lm-eval, whose names have a filter, without their errors."""
    own = {metric.quantity for metric in shown_in("tasks")}
    for name, value in result.items():
        title, _, kept = name.partition(",")
        known = name in own or (kept and not title.endswith("_stderr"))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if known and number and math.isfinite(value):
            yield name, float(value)


def _listed(path: Path, checkpoint: str) -> str | None:
    """Return the SHA-256 of a run's checkpoint, as the list beside it has it; None where it does not say one."""
    try:
        known = checksums(path / "checkpoints").get(checkpoint, [])
    except (OSError, ValueError):
        return None
    return known[0] if len(known) == 1 else None
