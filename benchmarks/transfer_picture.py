"""Draw what benchmarks/transfer.py has measured."""

import itertools
from collections.abc import Sequence
from typing import Any

from gptlab.reporting.pictures import COLOURS, empty_panels, png

PARTS = {"attention": "-", "feed-forward": "--", "logits": ":"}


def draw(results: dict[str, Any]) -> bytes:
    """Return PNG: above, how far steps move activations, and best rates over widths and depths; below, held-out losses
    over rates at each width. Ways that train a size alike lie on each other, the earlier ones in wider lines."""
    ways = list(results["coordinates"])
    look = {name: {"color": COLOURS[n], "lw": 3.4 - 0.8 * n} for n, name in enumerate(ways)}
    figure, (moved, width, depth, *below) = empty_panels(13, 7.6, 2, 3)
    rows = [results["coordinates"][name]["rows"] for name in ways]
    for (name, each), part in itertools.product(zip(ways, rows, strict=True), PARTS):
        label = {"label": name} if part == "attention" else {}
        x, y = [row["width"] for row in each], [row["moved"][part] for row in each]
        moved.plot(x, y, PARTS[part], **look[name], **label)
    moved.set_title("activations: attention -, feed-forward --, logits :", fontsize=9)
    _scale(moved, "width", "moved by 5 steps", [row["width"] for row in rows[0]])
    found = [row["best"] for axis in results["axes"].values() for each in axis.values() for row in each if row["best"]]
    for axes, axis, name in ((width, "width", "width"), (depth, "depth", "layers")):
        for way, each in results["axes"][axis].items():
            best = [row["best"] or float("nan") for row in each]
            axes.plot([row[axis] for row in each], best, "o-", ms=5, label=way, **look[way])
        _scale(axes, name, "best rate", [row[axis] for row in results["axes"][axis][ways[0]]])
        axes.set_ylim(min(found) / 1.5, max(found) * 1.5)
    for axes, way in zip(below, [way for way in ways if way != "mup"], strict=False):
        for colour, row in zip(COLOURS, results["axes"]["width"].get(way, []), strict=False):
            runs = sorted((run["lr"], run["loss"]) for run in row["runs"] if run["seed"] == 0)
            axes.plot(*zip(*runs, strict=True), "o-", ms=3, color=colour, label=f"width {row['width']}")
        axes.set(xscale="log", xlabel="rate", ylabel="held-out loss, nats per byte", title=way)
        axes.xaxis.set_minor_formatter("")
    for axes in (moved, width, depth, *below):
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
        axes.set_visible(bool(axes.lines))
    return png(figure)


def _scale(axes: Any, x: str, y: str, sizes: Sequence[int]) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.set_xticks([], minor=True)
