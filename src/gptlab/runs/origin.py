"""Say where a run comes from: the sweep that it is a job of, what that has varied, and when it was started."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gptlab.files import read_json
from gptlab.runs.reader import RunRecord, natural

CONFIRMED = "confirm"  # the folder, in that of a sweep, where its best config is run again
SEARCHED = "optimization_results.yaml"  # a file in the folder of a sweep that searched for the best values
MOST_JOBS = 10_000  # of a sweep that are read
MOST_BYTES = 1 << 20  # of a job.json
_EVENTS = re.compile(r"events\.out\.tfevents\.(\d{9,11})\..*")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d)/(\d\d-\d\d-\d\d)(?:/(\d+)-|-|$)")


def sweep_of(run: RunRecord) -> Path | None:
    """Return the directory of the sweep that a run is a job of; None for a run that was started alone."""
    return run.path.parent if (run.path / "job.json").is_file() else None


def confirms(run: RunRecord) -> bool:
    """Tell whether a run repeats the best config of a sweep with a fresh seed."""
    folder = run.path.parent  # its name first: a report asks this of thousands of runs
    return folder.name == CONFIRMED and sweep_of(run) is not None and (folder.parent / "sweep.json").is_file()


def search_of(run: RunRecord) -> Path | None:
    """Return the directory of the search that a run is a trial of; None for other runs."""
    folder = sweep_of(run)
    return folder if folder is not None and (folder / SEARCHED).is_file() else None


def swept(runs: Sequence[RunRecord]) -> list[dict[str, str]]:
    """Return, for each run, the keys that its sweep has varied, with the values chosen for it, as texts.

    There are none for a run that was started alone.
    """
    folders = [sweep_of(run) for run in runs]
    chosen = {folder: _varied_in(folder) for folder in dict.fromkeys(folders) if folder is not None}
    return [
        {} if folder is None else chosen[folder].get(run.path.name, {})
        for run, folder in zip(runs, folders, strict=True)
    ]


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


def _varied_in(folder: Path) -> dict[str, dict[str, str]]:
    """Return the overrides that differ between the jobs of a sweep, by the jobs' folders."""
    jobs: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/job.json"))[:MOST_JOBS]:
        try:
            note: Any = read_json(path, MOST_BYTES)
        except (OSError, ValueError):
            continue
        told = note.get("overrides") if isinstance(note, dict) else None
        pairs = [str(each).partition("=") for each in told] if isinstance(told, list) else []
        jobs[path.parent.name] = {key.lstrip("+"): value for key, equals, value in pairs if equals}
    keys = dict.fromkeys(key for job in jobs.values() for key in job)
    varied = [key for key in keys if len({job.get(key) for job in jobs.values()}) > 1]
    return {name: {key: job[key] for key in varied if key in job} for name, job in jobs.items()}
