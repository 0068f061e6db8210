"""Show the scores of one run on held-out text as a table."""

from typing import Any

from rich.table import Table

from gptlab.metrics import counted, shown_in


def score_table(result: dict[str, Any]) -> Table:
    """Return what `gptlab.evaluation.perplexity.evaluate` found as a table of one row, with how the text was read."""
    scores = [row for row in shown_in("evaluate") if row.quantity in result]
    sizes = [key for key in ("examples", "pairs", "targets", "tokens", "bytes") if result.get(key) is not None]
    read = ", ".join(f"{key} {value}" for key, value in result["protocol"].items())
    table = Table(*(row.head for row in scores), *sizes, caption=read)
    table.add_row(*(row.text(result[row.quantity], precise=True) for row in scores), *(f"{result[k]:,}" for k in sizes))
    return table


def unspelled_line(result: dict[str, Any]) -> str | None:
    """Return what is to be said of text that the tokens do not spell; None where they spell all of it."""
    if not result.get("unspelled"):
        return None
    lost = counted(result["unspelled"], result["characters"], "characters")
    return f"{lost} are not in the tokenizer's vocabulary: bits per byte is not defined"
