"""Show how the scores of tasks have moved over the checkpoints of runs: a table, and a page with their curves."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from gptlab.errors import printable
from gptlab.metrics import metric, shown_in
from gptlab.reporting import html as pages
from gptlab.reporting.pictures import COLOURS, empty_panels, png


def curve_table(found: dict[str, Any], runs: int) -> Table:
    """Return how each score of tasks has moved over the checkpoints of runs, its signal, its noise and their ratio."""
    last = found["checkpoints"]
    what = "the largest difference between the runs" if runs > 1 else "the change from the first checkpoint"
    caption = (
        f"signal: {what}; noise: the standard deviation over the last {last} checkpoints, both relative to the mean"
    )
    numbers = (Column(head, justify="right") for head in ("first", f"last {last}", "signal", "noise", "signal/noise"))
    table = Table("task", "metric", *numbers, caption=caption)
    for task, name, of_metric in _shown(found):
        scores = [curve["scores"] for curve in of_metric["curves"].values()]
        first, ends = (fmean(each) for each in ((own[0] for own in scores), (fmean(own[-last:]) for own in scores)))
        share = ["-" if of_metric[key] is None else f"{of_metric[key]:.2%}" for key in ("signal", "noise")]
        table.add_row(Text(printable(task)), name, f"{first:.4g}", f"{ends:.4g}", *share, _ratio(of_metric))
    return table


def write_curve_page(path: Path, found: Mapping[str, Any]) -> None:
    """Write a page with a picture of each task and metric, a line for each run."""
    drawn = []
    for task, name, of_metric in _shown(found):
        heading = f"{task} {name}"
        told = f"signal/noise {_ratio(of_metric)}; the last {found['checkpoints']} checkpoints tell the noise."
        drawn.append(pages.figure(heading, told, _drawn(of_metric["curves"], metric(f"tasks/{name}").head)))
    what = "Each point is a checkpoint."
    pages.write(path, "Tasks over the checkpoints", what, pages.figures(drawn), style=pages.FIGURES)


def _shown(found: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield each task with those of its metrics that are shown of tasks, or all of lm-eval's."""
    shown = {row.quantity for row in shown_in("tasks")}
    for task, by_metric in found["tasks"].items():
        yield from ((task, name, each) for name, each in by_metric.items() if name in shown or "," in name)


def _ratio(of_metric: Mapping[str, Any]) -> str:
    return "-" if of_metric["ratio"] is None else f"{of_metric['ratio']:.1f}"


def _drawn(curves: Mapping[str, Mapping[str, Any]], y_name: str) -> bytes:
    figure, (panel,) = empty_panels(6, 3)
    for number, (run, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        panel.plot(curve["steps"], curve["scores"], marker="o", ms=4, lw=1.3, color=colour, label=Path(run).name)
    panel.set_xlabel("step")
    panel.set_ylabel(y_name.removeprefix("tasks/"))
    if len(curves) > 1:
        panel.legend(frameon=False, fontsize=8)
    return png(figure)
