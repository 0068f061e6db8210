"""Show the scores of one run on held-out text as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from gptlab.errors import printable
from gptlab.metrics import Metric, counted, shown_in


def score_table(result: dict[str, Any]) -> Table:
    """Return what `evaluate` or `evaluate_together` found as a table, with how the text was read.

    A single run has one row; an ensemble has one for each of its members, and its own below.
    """
    members = result.get("members", [])
    scores = [row for row in shown_in("evaluate") if row.quantity in result]
    sizes = [key for key in ("examples", "targets", "tokens", "bytes") if result.get(key) is not None]
    read = ", ".join(f"{key} {value}" for key, value in result["protocol"].items())
    names = ["run"] if members else []
    table = Table(*names, *(row.head for row in scores), *sizes, caption=read)
    counts = [f"{result[key]:,}" for key in sizes]
    for each in members:
        table.add_row(_named(each["run"]), *_texts(scores, each), *counts)
    table.add_row(*(["together"] if members else []), *_texts(scores, result), *counts)
    return table


def _texts(scores: Sequence[Metric], result: dict[str, Any]) -> list[str]:
    return [row.text(result[row.quantity], precise=True) for row in scores]


def _named(place: str) -> Text:
    """Return the name of a run, or of a checkpoint with its run's."""
    path = Path(place)
    return Text(printable(path.name if path.suffix != ".ckpt" else f"{path.parent.parent.name}/{path.name}"))


def unspelled_line(result: dict[str, Any]) -> str | None:
    """Return what is to be said of text that the tokens do not spell; None where they spell all of it."""
    if not result.get("unspelled"):
        return None
    lost = counted(result["unspelled"], result["characters"], "characters")
    return f"{lost} are not in the tokenizer's vocabulary: bits per byte is not defined"
