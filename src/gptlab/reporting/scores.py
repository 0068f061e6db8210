"""Show the scores of one run on held-out text as a table."""

from typing import Any

from rich.table import Table

from gptlab.metrics import shown_in


def score_table(result: dict[str, Any]) -> Table:
    """Return the result of `gptlab.evaluation.perplexity.evaluate` as a table of one row."""
    scores = [row for row in shown_in("evaluate") if row.quantity in result]
    sizes = [key for key in ("examples", "targets", "tokens", "bytes") if result.get(key) is not None]
    table = Table(*(row.head for row in scores), *sizes)
    table.add_row(*(row.text(result[row.quantity], precise=True) for row in scores), *(f"{result[k]:,}" for k in sizes))
    return table
