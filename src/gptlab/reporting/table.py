"""One table of many runs: what was asked differently, what it took, what came of it, how much of that is the seed."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from gptlab.reporting.curves import Curves, read_curves
from gptlab.reporting.gather import SILENT, Run, differences, same_but_seed

SCORES = {"val_loss": "val loss", "bits_per_byte": "bits/byte"}  # what runs are ranked by
# figures with their heads, in the order of the table
FIGURES = {
    "steps": "steps",
    "tokens": "tokens",
    "flops": "FLOPs",
    "seconds": "time",
    "val_loss": "val loss",
    "perplexity": "perplexity",
    "bits_per_byte": "bits/byte",
    "tokens_per_second": "tokens/s",
}
# what a narrow terminal goes without
LEAST = ("tokens_per_second", "tokens", "flops", "perplexity", "seconds", "steps", "bits_per_byte")

LEAST_NAME = 10  # characters of a run's name


@dataclass
class Row:
    """A run's figures, as far as there are any; `mean` and `error` are of its seeds' scores."""

    run: Run
    curves: Curves
    asked: dict[str, Any]  # of what differs between the runs
    steps: int
    tokens: int
    flops: float | None
    seconds: float | None
    val_loss: float | None  # NaN if the run diverged
    perplexity: float | None
    bits_per_byte: float | None
    tokens_per_second: float | None
    group: int = 0  # runs of one group differ in the seed alone
    mean: float | None = None
    error: float | None = None  # standard error; None of a single seed
    seeds: int = 0

    @property
    def status(self) -> str:
        return self.run.status + ("?" if self.run.silent > SILENT else "")


@dataclass
class Report:
    """All rows, best group first; `score` is the column they are ranked by."""

    rows: list[Row]
    keys: dict[str, str]  # what differs: dotted key -> its short name
    score: str
    notes: list[str]

    def groups(self) -> list[list[Row]]:
        """The rows by group, best first."""
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return list(found.values())

    def label(self, row: Row, seed: bool = False) -> str:
        """What sets a row's group apart from the others, or the row itself."""
        keys = [key for key in self.keys if seed or key != "seed"]
        told = [f"{self.keys[key]}={shown(row.asked[key])}" for key in keys if row.asked[key] is not None]
        return ", ".join(told) or row.run.name


def tabulate(runs: Sequence[Run]) -> Report:
    """The report on some runs; only finished ones count for a group's mean and rank."""
    differing = differences(runs)
    tokenizers, texts = {run.tokenizer() for run in runs}, {run.data_hash for run in runs} - {None}
    score = "val_loss" if len(tokenizers) == 1 else "bits_per_byte"
    rows = [_row(run, {key: values[i] for key, values in differing.items()}) for i, run in enumerate(runs)]
    by_run = {id(row.run): row for row in rows}
    groups = [[by_run[id(run)] for run in group] for group in same_but_seed(runs)]
    for group in groups:
        every = [getattr(row, score) for row in group if row.run.status == "finished"]
        values = [value for value in every if value is not None and math.isfinite(value)]
        for row in group:
            row.seeds = len(values)
            row.mean = statistics.mean(values) if values else None
            row.error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    groups.sort(key=lambda group: math.inf if group[0].mean is None else group[0].mean)
    for number, group in enumerate(groups):
        for row in group:
            row.group = number
    notes = _notes(rows, len(tokenizers), len(texts))
    return Report([row for group in groups for row in group], _short(list(differing)), score, notes)


def heads(report: Report, figures: Sequence[str] = tuple(FIGURES)) -> list[str]:
    score = f"mean {SCORES[report.score]} ± s.e. (seeds)"
    return ["run", *report.keys.values(), "status", *(FIGURES[key] for key in figures), score]


def cells(report: Report, row: Row, first: bool, figures: Sequence[str] = tuple(FIGURES)) -> list[str]:
    """A row as text; the mean stands in the first of its group."""
    asked = [shown(row.asked[key]) for key in report.keys]
    values = [_FORMATS[key](getattr(row, key)) for key in figures]
    return [row.run.name, *asked, row.status, *values, mean(row) if first else ""]


def mean(row: Row) -> str:
    if row.mean is None:
        return "-"
    return f"{row.mean:.4f}" + ("" if row.error is None else f" ± {row.error:.4f}") + f" ({row.seeds})"


def lines(report: Report, figures: Sequence[str] = tuple(FIGURES)) -> list[list[str]]:
    """All rows as text."""
    return [
        cells(report, row, i == 0 or report.rows[i - 1].group != row.group, figures)
        for i, row in enumerate(report.rows)
    ]


def show(console: Console, report: Report) -> None:
    """Print it; a terminal that is too narrow gets fewer figures, a file all of them."""
    figures, columns = list(FIGURES), _columns(report, list(FIGURES))
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000)
    for key in LEAST:
        if _width(columns) <= console.width:
            break
        figures.remove(key)
        columns = _columns(report, figures)
    room = console.width - _width(columns[1:])
    columns[0].width = max(LEAST_NAME, min(int(columns[0].max_width or 0), room - 3))
    table = RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for line in lines(report, figures):
        table.add_row(*line)
    console.print(table)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def markdown(report: Report) -> str:
    names = heads(report)
    rule = ["---" if i <= len(report.keys) + 1 else "---:" for i in range(len(names))]
    every = [names, rule, *lines(report)]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in every]
    table = "\n".join(f"| {' | '.join(row)} |" for row in escaped)
    return "\n\n".join([table, *report.notes]) + "\n"


def comma_separated(report: Report) -> str:
    """CSV with full keys and unrounded figures, and the group's figures in every row."""
    rows = records(report)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def records(report: Report) -> list[dict[str, Any]]:
    """The table as plain values; what is not known or not finite is None."""
    return [
        {
            "run": row.run.name,
            "path": str(row.run.path),
            **row.asked,
            "status": row.run.status,
            **{key: _finite(getattr(row, key)) for key in FIGURES},
            "group": row.group,
            "seeds": row.seeds,
            f"mean_{report.score}": row.mean,
            f"standard_error_{report.score}": row.error,
        }
        for row in report.rows
    ]


def shown(value: Any) -> str:
    """A setting in few characters."""
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:18] + " ... " + text[-18:]


def _row(run: Run, asked: dict[str, Any]) -> Row:
    curves, summary = read_curves(run), run.summary
    steps = int(summary.get("steps") or curves.steps)
    tokens = int(summary.get("tokens") or steps * curves.tokens_per_step)

    def figure(key: str, otherwise: float | None) -> float | None:
        return otherwise if summary.get(key) is None else float(summary[key])

    seconds = curves.seconds_at([steps])[0]
    return Row(
        run=run,
        curves=curves,
        asked=asked,
        steps=steps,
        tokens=tokens,
        flops=figure("flops", tokens * curves.flops_per_token if curves.flops_per_token else None),
        seconds=figure("seconds", _finite(seconds)),
        val_loss=figure("val_loss", curves.last("val/loss")),
        perplexity=figure("val_perplexity", curves.last("val/perplexity")),
        bits_per_byte=figure("val_bits_per_byte", curves.last("val/bits_per_byte")),
        tokens_per_second=figure("tokens_per_second", curves.last("train/tokens_per_second")),
    )


def _notes(rows: Sequence[Row], tokenizers: int, texts: int) -> list[str]:
    """What a reader has to know, so as not to be misled."""
    notes = []
    if tokenizers > 1:
        notes.append(
            f"There are {tokenizers} tokenizers: losses and perplexities do not compare between them, bits per byte do."
        )
    if texts > 1:
        notes.append(f"There are {texts} different texts: compare only runs on the same one.")
    given = [row.run.config.get("budget") for row in rows]
    budgets = [{k: v for k, v in each.items() if v is not None} for each in given if isinstance(each, dict)]
    if len(rows) > 1 and len(budgets) == len(rows) and budgets[0] and all(each == budgets[0] for each in budgets):
        unit, amount = next(iter(budgets[0].items()))
        notes.append(f"All have the same budget: {unit}={shown(amount)}.")
    if any(row.status.endswith("?") for row in rows):
        notes.append(
            f"running?: nothing was written for {SILENT // 60} minutes or more; go on with gptlab train resume=RUN."
        )
    if any(row.run.status not in ("finished", "running") for row in rows):
        notes.append("Only finished runs count for means and ranks.")
    return notes


def _columns(report: Report, figures: Sequence[str]) -> list[Column]:
    """All as wide as they have to be, but the first, which gives way."""
    names = heads(report, figures)
    names[-1] = names[-1].replace(" ±", "\n±")
    texts = zip(*lines(report, figures), strict=True)
    widths = [max(map(cell_len, [*name.splitlines(), *column])) for name, column in zip(names, texts, strict=True)]
    left = len(report.keys) + 2
    most = min(44, widths[0])
    first = Column(names[0], no_wrap=True, overflow="ellipsis", min_width=min(LEAST_NAME, most), max_width=most)
    others = [
        Column(name, justify="left" if i < left else "right", no_wrap=True, min_width=width)
        for i, (name, width) in enumerate(zip(names[1:], widths[1:], strict=True), 1)
    ]
    return [first, *others]


def _width(columns: Sequence[Column]) -> int:
    """Of a table, at least."""
    return sum(int(column.min_width or 0) + 2 for column in columns)


def _short(keys: list[str]) -> dict[str, str]:
    """Each key by its last word, if no other ends in it."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _number(form: str) -> Any:
    def text(value: float | None) -> str:
        return "-" if value is None else format(value, form) if math.isfinite(value) else "not finite"

    return text


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


_FORMATS = {
    "steps": _number(",d"),
    "tokens": _number(",d"),
    "flops": _number(".2e"),
    "seconds": _clock,
    "val_loss": _number(".4f"),
    "perplexity": _number(",.2f"),
    "bits_per_byte": _number(".4f"),
    "tokens_per_second": _number(",.0f"),
}
