"""Draw what benchmarks/transfer.py has measured."""

from typing import Any

from gptlab.reporting.pictures import COLOURS, GREY, empty_panels, png

PARTS = {"attention": "-", "feed-forward": "--", "logits": ":"}


def draw(results: dict[str, Any]) -> bytes:
    """Return PNG: above, how far steps move activations, and the best rate over widths and depths; below, the losses
    over rates at each width, for each way of training that has all of them."""
    ways = list(results["coordinates"])
    colours = {name: COLOURS[number] for number, name in enumerate(ways)}
    full = [name for name in ways if len(results["axes"]["width"].get(name, [])) > 1]
    figure, panels = empty_panels(13, 7.6, 2, 3)
    moved, width, depth, *below = panels.flatten()
    for name in ways:
        rows = results["coordinates"][name]["rows"]
        for part, style in PARTS.items():
            own = {"label": name} if style == "-" else {}
            moved.plot(
                [row["width"] for row in rows], [row["moved"][part] for row in rows], style, color=colours[name], **own
            )
    for axes, x, y in ((moved, "width", "moved by 5 steps"), (width, "width", "best rate"), (depth, "layers", None)):
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    moved.set_title("attention -, feed-forward --, logits :", fontsize=9)
    for axes, axis in ((width, "width"), (depth, "depth")):
        for number, (name, rows) in enumerate(results["axes"][axis].items()):
            at = [row[axis] * 1.02**number for row in rows]
            axes.plot(at, [row["best"] or float("nan") for row in rows], "o-", ms=4, color=colours[name], label=name)
            for place, row in zip(at, rows, strict=True):
                each = [best for best in row["best_by_seed"] if best]
                axes.plot([place] * len(each), each, "_", ms=7, color=colours[name])
    for axes in (moved, width, depth):
        axes.legend(frameon=False, fontsize=8)
    for axes, name in zip(below, full, strict=False):
        for number, row in enumerate(results["axes"]["width"][name]):
            runs = sorted((run["lr"], run["loss"]) for run in row["runs"] if run["seed"] == 0)
            colour = COLOURS[number] if number < len(COLOURS) else GREY
            axes.plot(*zip(*runs, strict=True), "o-", ms=3, color=colour, label=f"width {row['width']}")
        axes.set(xscale="log", xlabel="rate", ylabel="held-out loss, nats per byte", title=name)
        axes.legend(frameon=False, fontsize=8)
    for axes in below[len(full) :]:
        axes.set_visible(False)
    return png(figure)
