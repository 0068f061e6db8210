"""Draw a scaling law: loss over tokens for each size, and over sizes for equal FLOPs."""

from collections.abc import Sequence

import numpy as np

from gptlab.planning.scaling import Law, Point
from gptlab.reporting.pictures import COLOURS, GREY, empty_panels, png

CURVES = 5  # of equal FLOPs


def picture(points: Sequence[Point], law: Law) -> bytes:
    """Return PNG: points with the law's curves by size; curves of equal FLOPs at such sizes, and their minima.

    A parabola in log N through such a curve is what sizes were chosen by before (Hoffmann et al. 2022, approach 2); it
    is drawn for comparison, and nothing is read off it.
    """
    figure, (left, right) = empty_panels(11, 4.6, 1, 2)
    sizes = sorted({each.parameters for each in points})
    tokens = np.geomspace(min(p.tokens for p in points) / 1.3, max(p.tokens for p in points) * 3, 80)
    for number, size in enumerate(sizes):
        colour = COLOURS[number] if number < len(COLOURS) else GREY
        own = [each for each in points if each.parameters == size]
        left.plot([p.tokens for p in own], [p.loss for p in own], "o", ms=4, color=colour, label=f"{size:.3g}")
        left.plot(tokens, law.loss(size, tokens), lw=1.2, color=colour)
    if law.E > 0:
        left.axhline(law.E, color="#777", lw=1, ls=":")
        left.annotate(f"E = {law.E:.3f}", (tokens[0], law.E), fontsize=8, color="#555", va="bottom")
    left.set_xscale("log")
    left.set_xlabel("tokens")
    left.set_ylabel("loss (nats per token)")
    left.legend(title="parameters", frameon=False, fontsize=8, title_fontsize=8)
    flops = np.array([6 * each.parameters * each.tokens for each in points])
    along = np.geomspace(sizes[0] / 3, 3 * sizes[-1], 60)
    for number, budget in enumerate(np.geomspace(flops.min(), flops.max(), CURVES)):
        curve, colour = law.loss(along, budget / 6 / along), COLOURS[number]
        right.plot(along, curve, color=colour, lw=1.4, label=f"{budget:.1e}")
        right.plot(along, np.polyval(np.polyfit(np.log(along), curve, 2), np.log(along)), color=colour, lw=0.8, ls="--")
        near = [p for p, own in zip(points, flops, strict=True) if 0.7 < own / budget < 1.4]
        right.plot([p.parameters for p in near], [p.loss for p in near], "o", ms=4, color=colour)
        if law.A > 0 and law.B > 0 and along[0] < (best := law.best_size(float(budget))[0]) < along[-1]:
            right.plot(best, float(law.loss(best, budget / 6 / best)), "*", ms=9, color=colour)
    right.set_xscale("log")
    right.set_xlabel("parameters, at equal FLOPs")
    right.legend(title="FLOPs; dashed: parabola, star: least loss", frameon=False, fontsize=8, title_fontsize=8)
    return png(figure)
