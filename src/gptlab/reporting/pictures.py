"""Draw the pictures of a report as PNG: curves, the best so far, and the final score against what was varied."""

import io
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from gptlab.errors import UserError
from gptlab.reporting.curves import AXES
from gptlab.reporting.figures import in_training
from gptlab.reporting.names import shown
from gptlab.reporting.rows import Report, Row
from gptlab.runs.origin import by_start
from gptlab.runs.reader import natural

# colours that colour-blind readers can distinguish (Okabe & Ito 2008, without the yellow)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C564B")
GREY = "#b8b8b8"
MOST_PANELS = 9
LITTLE = 0.15  # the share of a run that is its start


def require_matplotlib(key: str = "pictures", value: str = "true", or_else: str = ", or add pictures=false") -> None:
    """Raise UserError, which names `key`, if matplotlib is not installed, before any work is done."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        todo = f"pip install 'gptlab[report]'{or_else}"
        raise UserError(key, value, f"needs {error.name}", todo) from error


def curves(report: Report) -> bytes:
    """Draw the held-out score, and the same in training, over steps, tokens, FLOPs and time.

    The best groups are in colour, others in grey.
    """
    figure, panels = empty_panels(11, 8.6, 2, 2)
    groups = report.groups()
    score, training = report.score, in_training(report.score)
    values: list[float] = []  # values that must be visible: the best groups' scores after the start
    best = [row.curves.over("steps", score.name) for group in groups[: len(COLOURS)] for row in group]
    farthest = max((steps[-1] for steps, _ in best if steps), default=0.0)
    for steps, scores in best:
        values += [v for step, v in zip(steps, scores, strict=True) if step >= LITTLE * farthest]
    longest = max((x for row in report.rows for x in row.curves.over("seconds", "train/loss")[0]), default=0.0)
    for panel, (axis, name) in zip(panels, AXES.items(), strict=True):
        scale, name = _clock(longest) if axis == "seconds" else (1.0, name)
        drawn = False
        for number, group in reversed(list(enumerate(groups))):  # draw the best on top
            colour = COLOURS[number] if number < len(COLOURS) else GREY
            for row in group:
                if training and number < len(COLOURS):
                    xs, ys = row.curves.over(axis, training.name)
                    panel.plot([x / scale for x in xs], ys, color=colour, lw=0.8, alpha=0.4)
                xs, ys = row.curves.over(axis, score.name)
                panel.plot(
                    [x / scale for x in xs], ys, color=colour, lw=1.7, marker="o" if len(xs) < 15 else None, ms=3
                )
                drawn = drawn or bool(xs)
        if not drawn:
            panel.text(0.5, 0.5, "nothing logged", ha="center", va="center", color="#777", transform=panel.transAxes)
        if values:
            low, high = min(values), max(values)
            room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
            below, above = (3, 1) if score.sign > 0 else (1, 3)  # more room on the better side
            panel.set_ylim(low - below * room, high + above * room)
        if axis == "tokens":
            panel.xaxis.set_major_formatter(_short_numbers())
        panel.set_xlabel(name)
        panel.set_ylabel(score.axis)
        panel.margins(x=0.02)
    lines = [_line(COLOURS[i], 1.7) for i in range(min(len(groups), len(COLOURS)))]
    names = [_group_label(report, group) for group in groups[: len(COLOURS)]]
    if len(groups) > len(COLOURS):
        lines, names = [*lines, _line(GREY, 1.7)], [*names, f"{len(groups) - len(COLOURS)} others"]
    if training:
        lines, names = [*lines, _line("#555", 0.8)], [*names, "thin: in training, thick: held-out"]
    columns = 1 if max(map(len, names)) > 55 else 2 if max(map(len, names)) > 28 else 3
    figure.legend(lines, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return png(figure)


def best_so_far(report: Report) -> bytes | None:
    """Draw the final score of each finished run in the order of their starts, and the best so far."""
    rows = [row for row in _scored(report) if row.run.status == "finished"]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda row: by_start(row.run))
    scores = [_score(report, row) for row in rows]
    best = list(itertools.accumulate(scores, lambda a, b: report.score.best([a, b])))
    at = list(range(1, len(rows) + 1))
    figure, (panel,) = empty_panels(8, 4)
    panel.step(at, best, where="post", color="#444", lw=1.5, label=f"{report.score.most} so far")
    panel.scatter(at, scores, color=[_colour(row.group) for row in rows], s=36, zorder=3)
    first = scores.index(best[-1])
    panel.scatter([at[first]], [scores[first]], s=150, facecolors="none", edgecolors="#444", zorder=4)
    text, label = report.score.text(scores[first], precise=True), report.label(rows[first], seed=True)
    panel.set_title(f"{report.score.most}: {text} with {label}"[:110], fontsize=10)
    panel.set_xlabel("finished runs, in the order they were started")
    panel.set_ylabel(f"final held-out {report.score.axis}")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(frameon=False)
    return png(figure)


def swept(report: Report) -> bytes | None:
    """Draw the final score against each variable but the seed; lines join runs that differ in this variable alone.

    A variable is what varies within a sweep or an experiment; only the runs of those in which it does are drawn. Trials
    that a search has pruned are crosses, at their last score.
    """
    keys = [key for key in report.varied if key != "seed"][:MOST_PANELS]
    rows = [row for row in _scored(report) if row.run.status in ("finished", "pruned")]
    if not keys or all(row.run.status == "pruned" for row in rows):
        return None
    across = min(len(keys), 3)
    down = -(-len(keys) // across)
    figure, panels = empty_panels(max(6.5, 4.2 * across), 4.4 * down, down, across)
    for panel, key in zip(panels, keys, strict=False):
        _sweep_panel(panel, report, rows, key)
    for panel in panels[len(keys) :]:
        panel.set_axis_off()
    return png(figure)


def _sweep_panel(panel: Any, report: Report, every: Sequence[Row], key: str) -> None:
    rows = where_varied(every, key)
    values = sorted({shown(row.asked[key]) for row in rows}, key=natural)
    numbers = [row.asked[key] for row in rows]
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)
    place: dict[str, float] = {value: i for i, value in enumerate(values)}
    if numeric:
        place = {shown(v): float(v) for v in sorted(numbers)}
    series: dict[str, dict[str, list[float]]] = {}
    pruned = [row for row in rows if row.run.status == "pruned"]
    for row in (row for row in rows if row.run.status == "finished"):
        told = report.label_without(row, key)
        series.setdefault(told, {}).setdefault(shown(row.asked[key]), []).append(_score(report, row))
    few = 1 < len(series) <= len(COLOURS) and max(map(len, series)) < 45
    for number, (told, points) in enumerate(sorted(series.items(), key=lambda item: natural(item[0]))):
        colour = COLOURS[number] if few else COLOURS[0]
        at = sorted(points, key=lambda value: place[value])
        means = [statistics.mean(points[value]) for value in at]
        errors = [_standard_error(points[value]) for value in at]
        line = "-" if len(at) > 1 else "none"
        xs = [place[value] for value in at]
        panel.errorbar(xs, means, errors, ls=line, marker="o", ms=5, capsize=3, lw=1.3, color=colour, label=told)
    if pruned:
        xs, scores = [place[shown(row.asked[key])] for row in pruned], [_score(report, row) for row in pruned]
        panel.plot(xs, scores, "x", ms=5, color="0.55", label="pruned")
    if numeric:
        xs = sorted(set(place.values()))
        if xs[0] > 0 and xs[-1] / xs[0] >= 8:
            panel.set_xscale("log")
        if len(xs) <= 6:
            panel.set_xticks(xs, [shown(x) for x in xs])
            panel.minorticks_off()
    else:
        long = sum(map(len, values)) > 36
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
        panel.set_xticks(range(len(values)), values, **turned)
        panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_xlabel(key)
    panel.set_ylabel(f"final held-out {report.score.axis}")
    if few:
        panel.legend(frameon=False, fontsize=8)


def where_varied(rows: Sequence[Row], key: str) -> list[Row]:
    """Return the rows of those experiments and sweeps in which a setting varies; all rows if it does in none."""
    values: dict[str, set[str]] = {}
    for row in rows:
        values.setdefault(row.name.family, set()).add(shown(row.asked[key]))
    return [row for row in rows if len(values[row.name.family]) > 1] or list(rows)


def _scored(report: Report) -> list[Row]:
    return [row for row in report.rows if _score(report, row) is not None and math.isfinite(_score(report, row))]


def _score(report: Report, row: Row) -> Any:
    return row.figures[report.score.key]


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _colour(group: int) -> str:
    return COLOURS[group] if group < len(COLOURS) else GREY


def _group_label(report: Report, group: Sequence[Row]) -> str:
    label = report.label(group[0])
    label = label if len(label) <= 70 else label[:34] + " ... " + label[-34:]
    return label + (f" ({len(group)} seeds)" if len(group) > 1 else "")


def empty_panels(width: float, height: float, down: int = 1, across: int = 1) -> tuple[Any, list[Any]]:
    """Return an empty picture, sized in inches, and its panels; without pyplot's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e6e6e6")
        panel.set_axisbelow(True)
    return figure, panels


def _short_numbers() -> Any:
    """Format the numbers of an axis in short: 50k for 50,000."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _clock(longest: float) -> tuple[float, str]:
    """Return the number of seconds in a readable unit of time, and the name of the axis."""
    unit, seconds = ("h", 3600.0) if longest > 7200 else ("min", 60.0) if longest > 240 else ("s", 1.0)
    return seconds, f"training time ({unit})"


def _line(colour: str, width: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, lw=width)


def png(figure: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=140, metadata={"Software": None})
    return out.getvalue()
