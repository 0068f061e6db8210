"""Define the figures of a run in reports: its progress, and the metrics of its task from gptlab.metrics."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gptlab.metrics import Metric, metric, shown_in

SPEED = metric("train/tokens_per_second")


@dataclass(frozen=True)
class Figure:
    """One figure of a run."""

    head: str  # its column's heading, also used in sentences
    text: Callable[[float | None], str]  # formats a value in few characters
    spared: int  # a narrow terminal omits the lowest first
    metric: Metric | None = None  # its curve in metrics.csv; the last value replaces a missing summary


def _number(form: str) -> Callable[[float | None], str]:
    def text(value: float | None) -> str:
        return "-" if value is None else format(value, form) if math.isfinite(value) else "not finite"

    return text


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def figures_of(names: Collection[str]) -> dict[str, Figure]:
    """Return the figures of runs whose tasks have the metrics `names`, by keys of summary.json, in table order."""
    found = {
        "steps": Figure("steps", _number(",.0f"), 6),
        "tokens": Figure("tokens", _number(",.0f"), 2),
        "flops": Figure("FLOPs", _number(".2e"), 3),
        "seconds": Figure("time", _clock, 5),
    }
    for each in shown_in("report", names):
        found[each.key] = Figure(each.head, _precise(each), 7 if "line" in each.shown else 4, each)
    found["tokens_per_second"] = Figure(SPEED.head, SPEED.text, 1, SPEED)
    return found


def of_tasks(names: Collection[str]) -> dict[str, Figure]:
    """Return the figures of scores that runs keep of tasks, by their names there, such as `qa acc`."""
    found = {}
    for name in names:
        task, _, title = name.rpartition(" ")
        row = metric(f"tasks/{title}")
        found[name] = Figure(f"{task} {row.head.removeprefix('tasks/')}", row.text, 4)
    return found


def _precise(row: Metric) -> Callable[[float | None], str]:
    return lambda value: row.text(value, precise=True)


def in_order_of_need(figures: dict[str, Figure], score: Metric) -> list[str]:
    """Return the keys of the figures that a narrow terminal omits, in the order of omission; never `score`."""
    return sorted((key for key in figures if key != score.key), key=lambda key: figures[key].spared)


def in_training(score: Metric) -> Metric | None:
    """Return the same metric measured in training, if the two are comparable: the tasks' summaries have it."""
    found = metric(f"train/{score.quantity}")
    return found if found.summary else None
