"""Draw the loss over the size of the batch for each checkpoint, and the critical size over tokens."""

from collections.abc import Sequence

from gptlab.planning.critical_batch import Branches
from gptlab.reporting.pictures import COLOURS, GREY, empty_panels, png


def picture(every: Sequence[Branches], tolerance: float, tokens_per_sequence: float) -> bytes:
    """Return PNG: losses above that of the run's own batch with the tolerance, and the largest sizes within it."""
    figure, (left, right) = empty_panels(11, 4.4, 1, 2)
    tried = sorted({size for each in every for size in each.losses})
    ends = tried[0] / 1.3, tried[-1] * 1.3
    left.set_xlim(*ends)  # before anything is drawn: losses of branches that have diverged are not
    left.set_xscale("log", base=2)
    left.set_xticks(tried, map(str, tried))
    for number, each in enumerate(every):
        colour, sizes = COLOURS[number] if number < len(COLOURS) else GREY, sorted(each.losses)
        above = [each.losses[size] - each.losses[each.own] for size in sizes]
        left.plot(sizes, above, "o-", ms=4, lw=1.4, color=colour, label=f"{each.position * tokens_per_sequence:.3g}")
    left.axhline(tolerance, color="#777", lw=1, ls=":")
    left.set_xlabel("sequences a step, for the same data")
    left.set_ylabel("loss above that of the run's own batch (nats)")
    left.legend(title="tokens at the checkpoint", frameon=False, fontsize=8, title_fontsize=8)
    tokens = [each.position * tokens_per_sequence for each in every]
    critical = [each.critical(tolerance) for each in every]
    right.plot(tokens, critical, "o-", ms=5, lw=1.4, color=COLOURS[0])
    for x, y, each in zip(tokens, critical, every, strict=True):
        if each.beyond(tolerance):
            right.annotate("or more", (x, y), xytext=(0, 6), textcoords="offset points", fontsize=8, ha="right")
    right.set_yscale("log", base=2)
    right.set_yticks(tried, map(str, tried))
    right.set_ylim(*ends)
    right.set_xlabel("tokens that the run had read")
    right.set_ylabel("critical batch (sequences)")
    return png(figure)
