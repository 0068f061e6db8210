"""Show quality against diversity over a sweep of decoders: a table, and a page with a picture."""

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from gptlab.metrics import Metric, shown_in
from gptlab.reporting import html as pages
from gptlab.runs.samples import visible

MOST_TEXTS = 8  # of a decoder on the page
STYLE = "details { margin-top: 1rem } summary { cursor: pointer } svg { max-width: 100% }"
EXPLANATION = (
    "Perplexity is that of the texts under the model itself. dist-n is the share of different n-grams, rep-4 of "
    "4-grams that a text has had before. self-BLEU likens the texts to each other. copy is the most tokens in a "
    "row that the training text has too."
)


def frontier_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the rows of `gptlab.evaluation.frontier` as a table."""
    columns = (Column(each.head, justify="right", no_wrap=True) for each in _columns())
    table = Table(Column("decoder", no_wrap=True), *columns)
    for row in rows:
        table.add_row(Text(str(row["decoder"])), *_cells(row))
    return table


def write_frontier_page(path: Path, rows: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]] = ()) -> None:
    """Write the rows as a page, with a picture of those whose perplexity and diversity are defined.

    `results` are what `sample` has returned for each row: its decoder with all settings, and its texts.
    """
    cells = [(False, [row["decoder"], *_cells(row)]) for row in rows]
    points = [
        (float(row["distinct_2"]), float(row["perplexity"]), str(row["decoder"]))
        for row in rows
        if row["distinct_2"] is not None and row["perplexity"] is not None
    ]
    x_name = "diversity: the share of different pairs of tokens (dist-2)"
    picture = scatter(points, x_name, "quality: perplexity under the model, lowest at the top") if points else ""
    table = pages.table(["decoder", *(each.head for each in _columns())], cells)
    texts = [_texts(str(row["decoder"]), result) for row, result in zip(rows, results, strict=False)]
    pages.write(path, "Quality against diversity", EXPLANATION, picture, table, *texts, style=STYLE)


def _texts(name: str, result: dict[str, Any]) -> str:
    """Return the settings of a decoder, and what it has written after each prompt."""
    shown = "".join(
        f'<p class="text"><b>{html.escape(visible(sample["prompt"]))}</b>{html.escape(visible(sample["text"]))}</p>'
        for sample in result["samples"][:MOST_TEXTS]
    )
    given = ", ".join(str(override) for override in result.get("overrides", ()))
    heading = f"<summary>{html.escape(name)}: {html.escape(str(result['decoder']))}</summary>"
    return f'<details>{heading}<p class="what">{html.escape(given)}</p>{shown}</details>'


def scatter(points: Sequence[tuple[float, float, str]], x_name: str, y_name: str) -> str:
    """Return a picture (SVG) of labelled points, x in [0, 1], y on a logarithmic scale with the lowest at the top."""
    width, height, left, bottom = 720, 420, 70, 50
    xs, ys = [x for x, _, _ in points], [math.log(y) for _, y, _ in points]
    y_low, y_high = min(ys) - 0.2, max(ys) + 0.2

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + x * (width - left - 150)
        return across, (height - bottom) * (y - y_low) / (y_high - y_low) + 10  # low perplexity is good, and above

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" font-family="system-ui" font-size="12" fill="currentColor">'
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_low + share * (y_high - y_low)
        (across, _), (_, down) = at(share, y_low), at(0.0, y)
        parts.append(f'<line x1="{left}" x2="{width - 140}" y1="{down:.0f}" y2="{down:.0f}" stroke="#8885"/>')
        parts.append(f'<text x="{left - 8}" y="{down + 4:.0f}" text-anchor="end">{math.exp(y):.3g}</text>')
        parts.append(f'<text x="{across:.0f}" y="{height - bottom + 30}" text-anchor="middle">{share:.2f}</text>')
    labels: list[tuple[float, float]] = []  # taken positions
    for x, y, label in sorted(zip(xs, ys, (label for _, _, label in points), strict=True), key=lambda p: -p[1]):
        across, down = at(x, y)
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="5" fill="#c4551b"/>')
        while any(abs(across - other) < 100 and abs(down - level) < 13 for other, level in labels):
            down += 1  # avoid overlaps
        labels.append((across, down))
        parts.append(f'<text x="{across + 9:.1f}" y="{down + 4:.1f}">{html.escape(label)}</text>')
    parts.append(f'<text x="{(width - 70) / 2:.0f}" y="{height - 4}" text-anchor="middle">{html.escape(x_name)}</text>')
    parts.append(f'<text x="14" y="{height / 2:.0f}" text-anchor="middle" transform="rotate(-90 14 {height / 2:.0f})">')
    parts.append(f"{html.escape(y_name)}</text></svg>")
    return "".join(parts)


def _columns() -> list[Metric]:
    return shown_in("frontier")


def _cells(row: dict[str, Any]) -> list[str]:
    return [each.text(row[each.quantity]) for each in _columns()]
