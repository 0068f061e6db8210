"""Train the runs of a trial, one process after the other, and score each on the two parts of the held-out text."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.config.overrides import quoted
from gptlab.config.tree import compose
from gptlab.errors import RunFailed
from gptlab.runs.run_dir import PASSING
from gptlab.sweep.job import Job
from gptlab.sweep.launcher import end_all

POLL = 0.2  # seconds
SCORE = "bits_per_byte"


@dataclass(frozen=True)
class Side:
    """One side of a trial: the run whose config it has, the overrides over it, and the environment of its code."""

    config: Path
    overrides: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def trained(side: Side, run_dir: Path, seed: int) -> dict[str, Any]:
    """Train one run, or go on with it after a kill; return its summary with its status.

    Raises RunFailed where it was killed or stopped from elsewhere, and KeyboardInterrupt where this process was asked
    to stop: the run has saved then.
    """
    config = compose("train", [*side.overrides, f"seed={seed}", f"run_dir={quoted(str(run_dir))}"], side.config)
    job = Job(run_dir, seed, list(side.overrides))
    if job.finished:
        return job.result()
    run_dir.mkdir(parents=True, exist_ok=True)
    job.prepare(config)
    job.start({**side.environment, PASSING: "1"})
    try:
        while job.running():
            time.sleep(POLL)
    except BaseException:
        end_all([job])
        raise
    result = job.result()
    if result["status"] == "stopped" or str(result.get("error", "")).startswith("killed by"):
        raise RunFailed(f"{run_dir} was stopped from elsewhere: {result.get('error', 'a signal')}; gate again goes on")
    return result


def scored(side: Side, run_dir: Path, texts: Sequence[Path]) -> list[float | None]:
    """Return the bits per byte of a run on each of several folders of texts, by its own code; None: not finite.

    Raises RunFailed where they cannot be computed.
    """
    files = ",".join(f"[{quoted(str(folder.absolute() / '*.txt'))}]" for folder in texts)
    asked = [f"run={quoted(str(run_dir))}", "data=text", f"data.files={files}", "data.format=text"]
    command = [sys.executable, "-m", "gptlab", "evaluate", "-m", *asked, "data.val_fraction=1", "json=true"]
    done = subprocess.run(command, env={**os.environ, **side.environment}, capture_output=True, text=True, check=False)
    try:
        answers = json.loads(done.stdout.splitlines()[-1])["runs"]
        values, losses = ([_finite(answer[key]) for answer in answers] for key in (SCORE, "loss"))
    except (ValueError, IndexError, KeyError, TypeError) as error:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise RunFailed(f"{run_dir} cannot be scored: {said.removeprefix('error: ')}") from error
    if any(value is None and loss is not None for value, loss in zip(values, losses, strict=True)):
        raise RunFailed(f"{run_dir} cannot be scored: its tokenizer does not spell all of the held-out text")
    return values


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def drop_checkpoints(run_dir: Path) -> None:
    """Remove the weights of a run that has been scored; its config, curves and samples stay."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
