"""Show the rows as a table: in a terminal, as Markdown, as CSV and as plain values."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from gptlab.reporting.figures import in_order_of_need
from gptlab.reporting.rows import Report, Row, finite, shown

LEAST_NAME = 10  # characters kept of a run's name


def heads(report: Report, figures: Sequence[str] | None = None) -> list[str]:
    """Return the names of the columns; without `figures`, those of all the report's figures."""
    score = f"mean {report.score.head} ± s.e. (seeds)"
    names = [report.figures[key].head for key in figures or report.figures]
    return ["run", *report.keys.values(), "status", *names, score]


def cells(report: Report, row: Row, first: bool, figures: Sequence[str] | None = None) -> list[str]:
    """Return a row as text; the mean stands in the first row of its group."""
    asked = [shown(row.asked[key]) for key in report.keys]
    values = [report.figures[key].text(row.figures[key]) for key in figures or report.figures]
    return [row.run.name, *asked, row.status, *values, mean(report, row) if first else ""]


def mean(report: Report, row: Row) -> str:
    """Return the mean score of a row's group with its standard error and the number of seeds."""
    if row.mean is None:
        return "-"
    text, error = (report.score.text(value, precise=True) for value in (row.mean, row.error))
    return text + ("" if row.error is None else f" ± {error}") + f" ({row.seeds})"


def lines(report: Report, figures: Sequence[str] | None = None) -> list[list[str]]:
    """Return all rows as text."""
    return [
        cells(report, row, i == 0 or report.rows[i - 1].group != row.group, figures)
        for i, row in enumerate(report.rows)
    ]


def show(console: Console, report: Report) -> None:
    """Print a report; a narrow terminal gets fewer figures, a file all of them."""
    figures, columns = list(report.figures), _columns(report, list(report.figures))
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000)
    for key in in_order_of_need(report.figures, report.score):
        if _width(columns) <= console.width:
            break
        figures.remove(key)
        columns = _columns(report, figures)
    room = console.width - _width(columns[1:])
    columns[0].width = max(LEAST_NAME, min(int(columns[0].max_width or 0), room - 3))
    table = RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for line in lines(report, figures):
        table.add_row(*map(Text, line))  # Text, so that square brackets are not markup
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def markdown(report: Report) -> str:
    """Return a report as a table of Markdown."""
    names = heads(report)
    rule = ["---" if i <= len(report.keys) + 1 else "---:" for i in range(len(names))]
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
    """Return a report as plain values; unknown and non-finite ones are None."""
    return [
        {
            "run": row.run.name,
            "path": str(row.run.path),
            **row.asked,
            "status": row.run.status,
            **{key: finite(row.figures[key]) for key in report.figures},
            "group": row.group,
            "seeds": row.seeds,
            f"mean_{report.score.key}": row.mean,
            f"standard_error_{report.score.key}": row.error,
        }
        for row in report.rows
    ]


def _columns(report: Report, figures: Sequence[str]) -> list[Column]:
    """Return columns as wide as they need to be, except the first, which takes the remaining width."""
    names = heads(report, figures)
    names[-1] = names[-1].replace(" ±", "\n±")
    texts = zip(*lines(report, figures), strict=True)
    widths = [max(map(cell_len, [*name.splitlines(), *column])) for name, column in zip(names, texts, strict=True)]
    left = len(report.keys) + 2
    most = min(44, widths[0])
    first = Column(Text(names[0]), no_wrap=True, overflow="ellipsis", min_width=min(LEAST_NAME, most), max_width=most)
    others = [
        Column(Text(name), justify="left" if i < left else "right", no_wrap=True, min_width=width)
        for i, (name, width) in enumerate(zip(names[1:], widths[1:], strict=True), 1)
    ]
    return [first, *others]


def _width(columns: Sequence[Column]) -> int:
    """Return the least width of a table."""
    return sum(int(column.min_width or 0) + 2 for column in columns)
