"""Show the rows as a table: in a terminal, as Markdown, as CSV and as plain values."""

import collections
import csv
import io
import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from gptlab.reporting.figures import in_order_of_need
from gptlab.reporting.names import shown
from gptlab.reporting.rows import Report, Row, finite

EDGES = 2  # columns of a terminal beside a table
LEAST_NAME, MOST_NAME = 28, 60  # columns of a terminal for the names; longer ones go on in the next line


def heads(report: Report) -> list[str]:
    """Return the names of the columns of `lines`."""
    return ["run", _score_head(report), *(report.figures[key].head for key in report.figures), "status", *_keys(report)]


def lines(report: Report) -> list[list[str]]:
    """Return all rows as text, the results first; the mean stands in the first row of its group."""
    found = []
    for i, row in enumerate(report.rows):
        first = i == 0 or report.rows[i - 1].group != row.group
        figures = [report.figures[key].text(row.figures[key]) for key in report.figures]
        asked = [shown(row.asked[key]) for key in report.keys]
        found.append([report.label(row, seed=True), mean(report, row) if first else "", *figures, row.status, *asked])
    return found


def mean(report: Report, row: Row) -> str:
    """Return the mean score of a row's group with its standard error and the number of seeds."""
    if row.mean is None:
        return "-"
    text, error = (report.score.text(value, precise=True) for value in (row.mean, row.error))
    return text + ("" if row.error is None else f" ± {error}") + f" ({row.seeds})"


def show(console: Console, report: Report) -> None:
    """Print a line for each group of seeds, in the width of the terminal: results first, then the settings.

    What a line lacks is in the CSV and on the page. A file gets all columns.
    """
    groups = report.groups()
    name, score, *others = _group_columns(report, groups)
    longest = max(map(cell_len, name[1]))
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000)
    least = min(longest, max(LEAST_NAME, console.width // 3))
    room = console.width - least - EDGES - _width(score)
    chosen = []
    for _, column in sorted(enumerate(others), key=lambda pair: pair[1][2]):
        if _width(column) <= room:
            room -= _width(column)
            chosen.append(column)
    kept = [name, score, *(column for column in others if any(column is each for each in chosen))]
    own = console.width - sum(map(_width, kept[1:])) - EDGES
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold", width=max(1, min(longest, own, MOST_NAME if len(kept) > 2 else own)))
    for head, _, need in kept[1:]:
        table.add_column(Text(head), justify="left" if need in (LEFT, STATUS) else "right", no_wrap=True)
    for line in zip(*(cells for _, cells, _ in kept), strict=True):
        table.add_row(*map(Text, line))  # Text, so that square brackets are not markup
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if len(kept) < len(others) + 2:
        console.print(
            "Each seed, and the columns that have no room here, are in report.csv and on the page.", soft_wrap=True
        )


def markdown(report: Report) -> str:
    """Return a report as a table of Markdown."""
    names = heads(report)
    left = {0, *range(len(names) - len(report.keys) - 1, len(names))}
    rule = ["---" if i in left else "---:" for i in range(len(names))]
    every = [names, rule, *lines(report)]
    escaped = [[_escaped(cell) for cell in row] for row in every]
    table = "\n".join(f"| {' | '.join(row)} |" for row in escaped)
    return "\n\n".join([table, *report.notes]) + "\n"


def _escaped(cell: str) -> str:
    """Return a cell in which no HTML, link, code or end of a column is left: names and settings may be anybody's."""
    text = cell.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return re.sub(r"([\\|`\[\]])", r"\\\1", text)


def comma_separated(report: Report) -> str:
    """Return a report as CSV with full keys and unrounded figures, and the group's figures in every row."""
    rows = records(report)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def records(report: Report) -> list[dict[str, Any]]:
    """Return a report as plain values, the results first; unknown and non-finite ones are None."""
    return [
        {
            "name": report.label(row, seed=True),
            "status": row.run.status,
            **{key: finite(row.figures[key]) for key in report.figures},
            "group": row.group,
            "seeds": row.seeds,
            f"mean_{report.score.key}": row.mean,
            f"standard_error_{report.score.key}": row.error,
            **row.asked,
            "run": row.run.name,
            "path": str(row.run.path),
        }
        for row in report.rows
    ]


# a column of the terminal's table: its head, its cells, and how soon it is left out; the highest first
GroupColumn = tuple[str, list[str], int]
ALWAYS, STATUS, FIGURES, LEFT = 0, 1, 2, 100


def group_status(report: Report, group: Sequence[Row]) -> str:
    """Return how many runs of a group have not ended as they should, and how; empty if all have."""
    diverged = [row.run.status == "finished" and not _known(row.figures[report.score.key]) for row in group]
    each = ["not finite" if bad else row.status for row, bad in zip(group, diverged, strict=True)]
    counts = collections.Counter(status for status in each if status != "finished")
    if len(group) == 1:
        return "".join(counts)
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def _group_columns(report: Report, groups: Sequence[Sequence[Row]]) -> list[GroupColumn]:
    """Return the columns of a line for each group; those that are the same everywhere are left out."""
    found: list[GroupColumn] = [
        ("run", [report.label(group[0]) for group in groups], ALWAYS),
        (_score_head(report).replace(" ±", "\n±"), [score_cell(report, group) for group in groups], ALWAYS),
    ]
    needed = list(reversed(in_order_of_need(report.figures, report.score)))
    for key, figure in report.figures.items():
        cells = [figure.text(of_group(report, group, key)) for group in groups]
        if key in needed and (len(set(cells)) > 1 or len(groups) == 1):
            found.append((figure.head, cells, FIGURES + needed.index(key)))
    states = [group_status(report, group) for group in groups]
    if any(states):
        found.append(("status", states, STATUS))
    told = {key for group in groups for key in group[0].name.told}
    for key in sorted(report.keys, key=lambda key: (key in told, key not in report.varied)):
        cells = [shown(group[0].asked[key]) for group in groups]
        if key != "seed" and len(set(cells)) > 1:
            found.append((report.keys[key], cells, LEFT))
    return found


def _score_head(report: Report) -> str:
    return f"{report.score.head} ± s.e. (seeds)"


def score_cell(report: Report, group: Sequence[Row]) -> str:
    """Return the mean of a group's finished runs, or else its last score so far, which has no number of seeds."""
    if group[0].mean is not None:
        return mean(report, group[0])
    return report.score.text(of_group(report, group, report.score.key), precise=True)


def of_group(report: Report, group: Sequence[Row], key: str) -> float | None:
    """Return the mean of a figure over the finished runs of a group, or over all of them if none has finished."""
    rows = [row for row in group if row.run.status == "finished" and _known(row.figures[report.score.key])] or group
    values = [value for row in rows if (value := row.figures[key]) is not None]
    return statistics.fmean(values) if values else None


def _known(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _keys(report: Report) -> list[str]:
    return list(report.keys.values())


def _width(column: GroupColumn) -> int:
    """Return the width of a column with the space before it."""
    return max(map(cell_len, [*column[0].splitlines(), *column[1]])) + 2
