"""Run the best config of a sweep again with fresh seeds: the best of many was lucky, and its own score says too much.

This is a sweep of its own, over seeds, in the folder `confirm` of the first one.
"""

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptlab.config.overrides import quoted
from gptlab.metrics import metric
from gptlab.runs.differences import same_but_seed
from gptlab.runs.origin import CONFIRMED
from gptlab.runs.reader import RunRecord, read_run
from gptlab.sweep import stored
from gptlab.sweep.job import jobs_in, score_of


class Best(NamedTuple):
    """The best config of a sweep: one of its runs, their scores, and the overrides of its job but the seed."""

    run: RunRecord
    scores: list[float]
    overrides: list[str]


def best_of(folder: Path) -> Best | None:
    """Return the best of the configs that have finished, by the mean over their seeds; None where none has."""
    jobs = {job.path: job for job in jobs_in(folder)}
    scores = {path: score for path, job in jobs.items() if (score := _final(job.result())) is not None}
    if not scores:
        return None
    groups = same_but_seed([read_run(path, path.name) for path in scores])
    sign = next(iter(jobs.values())).search_metric.sign
    best = min(groups, key=lambda group: sign * statistics.fmean(scores[run.path] for run in group))
    overrides = [each for each in jobs[best[0].path].overrides if not each.startswith("seed=")]
    return Best(best[0], [scores[run.path] for run in best], overrides)


def _final(result: dict[str, Any]) -> float | None:
    """Return the score of a job that has finished."""
    return score_of(result) if result["status"] == "finished" else None


def confirm(folder: Path, number: int, more: Sequence[str]) -> dict[str, Any] | None:
    """Run the best config of the sweep in `folder` with `number` fresh seeds; return what came of it.

    `more` are overrides of the launcher. What has been run before is kept. Returns None where no run has finished.
    """
    best = best_of(folder)
    if best is None:
        return None
    again, jobs = folder / CONFIRMED, jobs_in(folder)
    if (again / stored.NAME).exists():
        asked = [f"resume_sweep={quoted(str(again))}"]
    else:
        used = [read_run(job.path, job.path.name).config.get("seed") for job in jobs]
        first = 1 + max(seed for seed in [0, *used] if isinstance(seed, int))
        seeds = ",".join(str(first + i) for i in range(number))
        config = quoted(str(best.run.path / "config.yaml"))
        asked = ["-m", f"config={config}", f"seed={seeds}", f"hydra.sweep.dir={quoted(str(again))}", "confirm=0", *more]
    command = [sys.executable, "-m", "gptlab", "train", *asked]
    subprocess.run(command, check=False, stdout=sys.stderr.fileno())  # its table; the sweep's own answer is one object
    runs = [job.result() for job in jobs_in(again)]
    scores = [score for run in runs if (score := _final(run)) is not None]
    return {
        "overrides": best.overrides,
        "chosen_by": statistics.fmean(best.scores),
        "score": statistics.fmean(scores) if scores else None,
        "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
        "search_metric": jobs[0].search_metric.name,
        "runs": runs,
    }


def told(found: dict[str, Any]) -> str:
    """Return what came of the best config with fresh seeds in one line."""
    row = metric(found["search_metric"])
    score, seeds = row.text(found["score"], precise=True), sum(run["status"] == "finished" for run in found["runs"])
    spread = "" if found["deviation"] is None else f", which deviate by {row.text(found['deviation'], precise=True)}"
    chosen = row.text(found["chosen_by"], precise=True)
    return f"the best again, with {seeds} fresh seeds: {row.head} {score}{spread}; it was chosen with {chosen}"
