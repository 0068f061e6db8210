"""Say where a run comes from: the sweep that it is a job of, what that has varied, and when it was started."""

import functools
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from gptlab.files import read_json
from gptlab.runs.reader import RunRecord, natural

MOST_JOBS = 10_000  # of a sweep that are read
MOST_BYTES = 1 << 20  # of a job.json
_EVENTS = re.compile(r"events\.out\.tfevents\.(\d{9,11})\..*")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)/(\d\d-\d\d-\d\d)(?:/(\d+)-|-|$)")


def sweep_of(run: RunRecord) -> Path | None:
    """Return the directory of the sweep that a run is a job of; None for a run that was started alone."""
    return run.path.parent if (run.path / "job.json").is_file() else None


def swept(run: RunRecord) -> dict[str, str]:
    """Return the keys that a run's sweep has varied, with the values that it chose for this run, as texts."""
    folder = sweep_of(run)
    if folder is None:
        return {}
    jobs = _overrides_of_jobs(folder)
    keys = dict.fromkeys(key for job in jobs.values() for key in job)
    varied = [key for key in keys if len({job.get(key) for job in jobs.values()}) > 1]
    own = jobs.get(run.path.name, {})
    return {key: own[key] for key in varied if key in own}


def started(run: RunRecord) -> float:
    """Return when a run was first started, in seconds since 1970.

    Its summary says so. For runs of an older gptlab it is the time in the name of its first file of TensorBoard events,
    or that of its folder, or the last change of its config.
    """
    known = run.figure("started")
    if known is not None:
        return known
    try:
        named = [_EVENTS.fullmatch(path.name) for path in run.path.iterdir()]
        if times := [float(match[1]) for match in named if match]:
            return min(times)
        if match := _DATED.search(run.path.as_posix()):
            at = datetime.strptime(f"{match[1]} {match[2]}", "%Y-%m-%d %H-%M-%S")
            return at.timestamp() + float(match[3] or 0) * 1e-3  # jobs of a sweep in their order
        return (run.path / "config.yaml").stat().st_mtime
    except (OSError, ValueError, OverflowError):
        return 0.0


def by_start(run: RunRecord) -> tuple[float, list[tuple[int, str]]]:
    """Return a sort key: runs in the order in which they were started, those of one instant by their paths."""
    return started(run), natural(str(run.path))


@functools.lru_cache(maxsize=64)
def _overrides_of_jobs(folder: Path) -> dict[str, dict[str, str]]:
    """Return the overrides of each job of a sweep, by the job's folder."""
    found = {}
    for path in sorted(folder.glob("*/job.json"))[:MOST_JOBS]:
        try:
            note: Any = read_json(path, MOST_BYTES)
        except (OSError, ValueError):
            continue
        told = note.get("overrides") if isinstance(note, dict) else None
        pairs = [str(each).partition("=") for each in told] if isinstance(told, list) else []
        found[path.parent.name] = {key.lstrip("+"): value for key, equals, value in pairs if equals}
    return found
