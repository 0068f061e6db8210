"""Show where the loss on held-out text is high: as a table, and as one page with a picture for each partition."""

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from gptlab.errors import printable
from gptlab.evaluation.statistics import LEVEL
from gptlab.metrics import metric
from gptlab.reporting import html as pages
from gptlab.reporting.pictures import COLOURS, empty_panels, png

LOSS = metric("val/loss")
APART = 0.08  # of runs in a picture, in octaves of a logarithmic axis
# partition -> (heading, what its classes are)
HEADINGS = {
    "position": ("position in the window", "The number of tokens that the model reads before the predicted one."),
    "frequency": ("frequency of the token", "How often the predicted token stands in the held-out text itself."),
    "in_document": ("occurrence in the document", "Whether the predicted token has occurred in its document before."),
    "in_context": (
        "occurrence in what is read",
        "Whether the predicted token is among those that the model reads before it.",
    ),
    "place": ("place in the document", "1 is the first token of a document; its end is what separates it."),
}
LENGTHS = (
    "length of the window",
    "The same tokens in windows of one, two and more contexts; what is read before them is longer.",
)


def anatomy_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the classes of all partitions of a run's loss as one table, and its losses by length where asked for."""
    nats = f"{LEVEL:.0%} interval"
    columns = [Column(head, justify="right") for head in ("tokens", "share", "loss", nats)]
    name = printable(Path(str(result["run"])).name)
    table = Table(Column("predicted token"), *columns, box=box.SIMPLE_HEAD, pad_edge=False, title=Text(name))
    table.add_row("all", *_cells(result, result["tokens"]))
    for key, (heading, _) in HEADINGS.items():
        table.add_section()
        table.add_row(Text(heading, style="bold"))
        for each in result[key]:
            table.add_row(f"  {each['class']}", *_cells(each, result["tokens"]))
    return [table, *([_length_table(result["lengths"])] if len(result["lengths"]) > 1 else [])]


def _length_table(lengths: Sequence[Mapping[str, Any]]) -> Table:
    heads = ("loss", f"{LEVEL:.0%} interval", "change", f"{LEVEL:.0%} interval")
    columns = [Column(head, justify="right") for head in heads]
    table = Table(Column("window", justify="right"), *columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for size, cells in _length_rows(lengths):
        table.add_row(size, *cells)
    for each in lengths:
        if each["loss"] is None:
            table.caption = f"not beyond: {each['why']}"
            break
    return table


def _length_rows(lengths: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the length of each window with its loss, and how much that is above the loss in the shortest."""
    for each in lengths:
        if each["loss"] is None:
            yield f"{each['block_size']:,}", ["impossible", "", "", ""]
            continue
        change = each["difference"]
        changed = ["", ""] if change is None else [f"{change['value']:+.4f}", _span(change["low"], change["high"], "+")]
        yield f"{each['block_size']:,}", [*_cells(each, 1)[2:], *changed]


def _cells(of_class: Mapping[str, Any], total: int) -> list[str]:
    """Return a class's tokens, its share of all, its loss, and the interval of that."""
    interval = of_class["interval"]
    told = "-" if interval is None else _span(*interval)
    share = f"{of_class['tokens'] / total:.1%}"
    return [f"{of_class['tokens']:,}", share, LOSS.text(of_class["loss"], precise=True), told]


def _span(low: float, high: float, sign: str = "") -> str:
    return f"{low:{sign}.4f} to {high:{sign}.4f}"


def write_anatomy_page(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write the page of one run, or of several side by side: a picture for each partition, and tables."""
    names = [printable(Path(str(each["run"])).name) for each in results]
    drawn = [pages.figure(heading, what, _partition(results, names, key)) for key, (heading, what) in HEADINGS.items()]
    several = max(len(each["lengths"]) for each in results) > 1
    if several:
        longest = [each["lengths"] for each in results]
        by_length = pages.figure(*LENGTHS, _by_length(longest, names))
        beyond = "The longest windows that a model reads; the dashed line is the end of its context."
        drawn = [by_length, pages.figure("position in the longest window", beyond, _beyond(longest, names)), *drawn]
    tables = [
        part
        for result, name in zip(results, names, strict=True)
        for part in (f"<h2>{html.escape(name)}</h2>", *_page_tables(result))
    ]
    first = results[0]
    what = f"{first['tokens']:,} predicted tokens; intervals are {LEVEL:.0%} ones over {first['units']}; "
    what += "a point stands at the end of its class"
    pages.write(path, "Where the loss is", what, pages.figures(drawn), *tables, style=pages.FIGURES)


def _page_tables(result: Mapping[str, Any]) -> list[str]:
    heads = ["tokens", "share", "loss", f"{LEVEL:.0%} interval"]
    rows: list[tuple[bool, list[str]]] = [(True, ["all", *_cells(result, result["tokens"])])]
    for key, (heading, _) in HEADINGS.items():
        rows += [(True, [heading, "", "", "", ""])]
        rows += [(False, [f"  {each['class']}", *_cells(each, result["tokens"])]) for each in result[key]]
    found = [pages.table(["predicted token", *heads], rows)]
    if len(result["lengths"]) > 1:
        length_rows = [(False, [size, *cells]) for size, cells in _length_rows(result["lengths"])]
        found.append(pages.table(["window", "loss", heads[-1], "change", heads[-1]], length_rows))
    return found


def _partition(results: Sequence[Mapping[str, Any]], names: Sequence[str], key: str) -> bytes:
    return _drawn([each[key] for each in results], names, HEADINGS[key][0])


def _beyond(lengths: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> bytes:
    longest = [[each for each in own if each["loss"] is not None][-1]["position"] for own in lengths]
    return _drawn(longest, names, "position in the window", [own[0]["block_size"] for own in lengths])


def _by_length(lengths: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> bytes:
    read = [[{**each, "high": each["block_size"]} for each in own if each["loss"] is not None] for own in lengths]
    return _drawn(read, names, "tokens of a window", [own[0]["block_size"] for own in lengths])


def _drawn(
    series: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str], x_name: str, ends: Sequence[int] = ()
) -> bytes:
    """Draw the loss of classes with their intervals, a line for each run; numbers are on a logarithmic axis."""
    figure, (panel,) = empty_panels(6, 3.5)
    numeric = all("high" in each for own in series for each in own)
    for number, (own, name) in enumerate(zip(series, names, strict=True)):
        beside = APART * (number - (len(names) - 1) / 2)  # so that intervals do not hide each other
        xs = [each["high"] * 2**beside if numeric else place + beside for place, each in enumerate(own)]
        ys = [each["loss"] for each in own]
        spans = [each["interval"] or (each["loss"], each["loss"]) for each in own]
        below = [y - low for y, (low, _) in zip(ys, spans, strict=True)]
        above = [high - y for y, (_, high) in zip(ys, spans, strict=True)]
        how = {"color": COLOURS[number % len(COLOURS)], "label": name, "ls": "-" if numeric else "none"}
        panel.errorbar(xs, ys, [below, above], marker="o", ms=4, capsize=3, lw=1.3, **how)
    for end, colour in dict(zip(ends, COLOURS, strict=False)).items():
        panel.axvline(end, ls="--", lw=1, color=colour if len(set(ends)) > 1 else "#777")
    if numeric:
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, place: f"{value:,.0f}")
    else:
        panel.set_xticks(range(len(series[0])), [each["class"] for each in series[0]])
        panel.margins(x=0.5)
    panel.set_xlabel(x_name)
    panel.set_ylabel(LOSS.axis)
    if len(names) > 1:
        panel.legend(frameon=False, fontsize=8)
    return png(figure)
