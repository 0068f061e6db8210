"""Register what a larger run will reach before it is trained, in a file whose hash shows that it was not changed."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.errors import require
from gptlab.files import read_object, write_atomically
from gptlab.planning.scaling import COEFFICIENTS, Law, Point, middle, residuals
from gptlab.version import VERSION

MOST_BYTES = 1 << 26
NEEDED = ("made", "parameters", "tokens", "loss", "low", "high", "level")


def predict(
    points: Sequence[Point], law: Law, laws: Sequence[Law], at: tuple[float, float], level: float, seed: int
) -> tuple[float, float, float]:
    """Return the loss predicted for parameters and tokens, with the interval that holds it in `level` of the cases.

    The interval is of one run: it has the doubt about the law, by those of resampled points (`laws`), and the scatter
    of single runs about it, by the residuals, enlarged for the coefficients that were fitted to them.
    """
    n, rng = len(points), np.random.default_rng(seed)
    scatter = residuals(points, law) * np.sqrt(n / (n - len(COEFFICIENTS)))
    low, high = middle(np.array([each.loss(*at) * np.exp(rng.choice(scatter)) for each in laws]), level)
    return float(law.loss(*at)), float(low), float(high)


def register(path: Path, points: Sequence[Point], law: Law, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write a prediction (`NEEDED` but its time) with what it was made from; returns the content of the file."""
    content = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "gptlab": VERSION,
        **found,
        "law": law._asdict(),
        "points": [asdict(each) for each in points],
    }
    content["sha256"] = _hash(content)
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
    return content


def registered(path: Path) -> dict[str, Any]:
    """Read a prediction; raises UserError where it is damaged, or was changed after it was made."""
    todo = "give a file that predict= has written"
    found = read_object("score", path, MOST_BYTES, todo)
    require(all(key in found for key in (*NEEDED, "sha256")), "score", path, "is no registered prediction", todo)
    said = found.pop("sha256")
    require(said == _hash(found), "score", path, "was changed after it was made: its hash differs", todo)
    numbers = [found[key] for key in NEEDED if key != "made"]
    known = all(type(each) in (int, float) and 0 < each <= sys.float_info.max for each in numbers)
    require(known, "score", path, "is no registered prediction", todo)
    return {**found, "sha256": said}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
