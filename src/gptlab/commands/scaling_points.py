"""Read the points that a scaling law is fitted to: of runs here, or of a file that others have published."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptlab.errors import UserError, reason, require
from gptlab.files import read_json
from gptlab.model.config import GPTConfig
from gptlab.planning.flops import flops_by_part
from gptlab.planning.scaling import Point
from gptlab.runs.reader import RunRecord, find_runs, finite
from gptlab.tasks.saved import task_of

MOST_BYTES = 1 << 26
KEYS = ("parameters", "tokens", "loss")
EXPECTED = 'give a list of {"parameters": N, "tokens": D, "loss": L}'


class Found(NamedTuple):
    """Points, the runs that they are of, and those that were left out, with the reason."""

    points: list[Point]
    runs: list[RunRecord]
    left_out: list[tuple[str, str]]


def points_in(path: str) -> list[Point]:
    """Read a list of {"parameters", "tokens", "loss"}; raises UserError, which names the entry that is none."""
    try:
        entries = read_json(Path(path).expanduser(), MOST_BYTES)
    except (OSError, ValueError) as error:
        why = f"cannot be read ({reason(error)})"
        raise UserError("points", path, why, EXPECTED) from error
    require(isinstance(entries, list) and bool(entries), "points", path, "is no list of points", EXPECTED)
    return [_point(path, number, entry) for number, entry in enumerate(entries, 1)]


def _point(path: str, number: int, entry: Any) -> Point:
    values = [entry.get(key) for key in KEYS] if isinstance(entry, dict) else [None]
    known = all((finite(value) or 0) > 0 for value in values)
    why = f"entry {number} has not {', '.join(KEYS)} as numbers above 0"
    require(known, "points", path, why, EXPECTED)
    parameters, tokens, loss = (float(entry[key]) for key in KEYS)
    return Point(parameters, tokens, loss)


def points_of(folders: Sequence[str], size: str) -> Found:
    """Return a point for each finished run below some folders; raises UserError where they do not belong together.

    `size` says what counts as parameters: all, or those of the blocks. Runs that have not finished, have diverged, or
    are no language models, are left out.
    """
    points, runs, left_out = list[Point](), list[RunRecord](), list[tuple[str, str]]()
    for run in find_runs(folders):
        loss, tokens, parameters = (run.figure(key) for key in ("val_loss", "tokens", "parameters"))
        why = _unfit(run, loss)
        if why or loss is None or not tokens or not parameters:
            left_out.append((run.name, why or "its summary has not all figures"))
            continue
        points.append(Point(parameters if size == "all" else _of_blocks(run), tokens, loss, _trunk(run)))
        runs.append(run)
    said = "; ".join(f"{name}: {why}" for name, why in left_out[:3])
    require(bool(runs), "runs", ", ".join(folders), f"there is no finished run to fit ({said})", "train some first")
    same: dict[str, Callable[[RunRecord], Any]] = {
        "tokenizer": lambda run: run.tokenizer,
        "held-out text": lambda run: run.data_hash,
        "way of reading it": lambda run: repr(run.summary.get("protocol")),
    }
    for what, value in same.items():
        first = value(runs[0])
        other = next((run for run in runs if value(run) != first), None)
        why = f"{other.name if other else ''} has another {what} than {runs[0].name}: their losses do not compare"
        require(other is None, "runs", ", ".join(folders), why, "name folders of runs that belong together")
    return Found(points, runs, left_out)


def _unfit(run: RunRecord, loss: float | None) -> str | None:
    """Say why a run is left out; None where it is not."""
    try:
        if not task_of(run.config).predicts_tokens:
            return "its task does not predict tokens"
    except UserError:
        return "its task is not known here"
    if run.status != "finished":
        return f"is {run.status}"
    model = run.config.get("model")
    ids = model.get("vocab_size") if isinstance(model, dict) else None
    if loss is None or (isinstance(ids, int) and ids > 1 and loss >= math.log(ids)):
        return "diverged"
    return None


def _of_blocks(run: RunRecord) -> float:
    """Return the weights of the matrices in a model's blocks; raises UserError for a model of another package."""
    try:
        return flops_by_part(GPTConfig(**run.config["model"]))["blocks"] / 6
    except (TypeError, KeyError, UserError) as error:
        raise UserError("size", "blocks", f"is not known of the model of {run.name}", "leave it out") from error


def _trunk(run: RunRecord) -> str:
    """Return what runs share that were branched off one training run, that run among them: its path."""
    origin = run.summary.get("branch_of")
    return origin if isinstance(origin, str) else str(run.path.resolve())
