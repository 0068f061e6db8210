"""The scores of one run on held-out text, as a table."""

from typing import Any

from rich.table import Table

HEADS = {
    "loss": ("nats/token", ".4f"),
    "perplexity": ("perplexity", ",.2f"),
    "bits_per_byte": ("bits/byte", ".4f"),
    "tokens": ("tokens", ","),
    "bytes": ("bytes", ","),
}


def score_table(result: dict[str, Any]) -> Table:
    """Return what `gptlab.evaluation.perplexity.evaluate` found as a table of one row."""
    table = Table(*(head for head, _ in HEADS.values()))
    table.add_row(*(format(result[key], form) for key, (_, form) in HEADS.items()))
    return table
