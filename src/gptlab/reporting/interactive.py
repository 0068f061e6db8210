"""Pack what the interactive page draws: curves, settings, and the library that draws them, within the page itself."""

import base64
import functools
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from gptlab.metrics import metric
from gptlab.reporting.curves import AXES
from gptlab.reporting.figures import in_training
from gptlab.reporting.names import shown
from gptlab.reporting.rows import Report, Row, finite
from gptlab.runs.origin import by_start

MOST_POINTS = 200  # of a curve on the page
MOST_CURVES = 12  # metrics on the page
GZIP = 31  # of zlib: with a header of gzip


def has_plotly() -> bool:
    """Return whether the library of interactive charts is installed."""
    return find_spec("plotly") is not None


@functools.cache
def packed_library() -> str:
    """Return plotly.js, packed; it is MIT-licensed and says so at its top."""
    from plotly.offline import get_plotlyjs

    return packed([str(get_plotlyjs()).encode()])


def own_file(name: str) -> str:
    """Return a file of the page's own, page.js or page.css."""
    return (files("gptlab.reporting") / name).read_text(encoding="utf-8")


def packed(content: Iterable[bytes]) -> str:
    """Return pieces of bytes as text within a page: gzip, in base64."""
    gzip = zlib.compressobj(9, wbits=GZIP)
    return base64.b64encode(b"".join([*map(gzip.compress, content), gzip.flush()])).decode()


def page_data(report: Report) -> Iterator[bytes]:
    """Yield all that the page draws as JSON, a run at a time; the rows are numbered as in the table."""
    curves = curve_names(report)
    order = sorted(range(len(report.rows)), key=lambda i: by_start(report.rows[i].run))
    every = [row.run.settings for row in report.rows]
    keys = [key for key in dict.fromkeys(k for each in every for k in each) if _differs(key, every)]
    data = {
        "axes": AXES,
        "metrics": {name: metric(name).over(report.target).axis for name in curves},
        "score": {"name": report.score.name, "axis": report.score.axis, "sign": report.score.sign},
        "training": getattr(in_training(report.score), "name", None),
        "groups": [report.label(group[0]) for group in report.groups()],
        "means": [[finite(g[0].mean), finite(g[0].error), g[0].seeds] for g in report.groups()],
        "varied": {key: report.keys[key] for key in report.varied if key != "seed"},
        "order": order,
    }
    yield _json(data).removesuffix(b"}") + b',"runs":['
    for number, row in enumerate(report.rows):
        run = _run(report, row, curves) | {"settings": {key: shown(row.run.settings.get(key)) for key in keys}}
        yield (b"," if number else b"") + _json(run)
    yield b"]}"


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode()


def curve_names(report: Report) -> list[str]:
    """Return the metrics that are drawn: the score, the same in training, then the others that runs have logged."""
    logged = dict.fromkeys(name for row in report.rows for name in row.curves.metrics)
    training = in_training(report.score)
    first = [report.score.name, *([training.name] if training else [])]
    known = sorted((name for name in logged if metric(name).chart), key=lambda name: name not in first)
    return list(dict.fromkeys([*first, *known, *logged]))[:MOST_CURVES]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most `most` of the points, evenly spaced, including the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _run(report: Report, row: Row, curves: Sequence[str]) -> dict[str, Any]:
    drawn, sizes = {}, row.curves.sizes
    for name in curves:
        steps, values = row.curves.over("steps", name)
        points = thinned(list(zip(steps, values, strict=True)))
        if points:
            drawn[name] = [[int(x) for x, _ in points], [_short(y) for _, y in points]]
    seconds = thinned(list(zip(*row.curves.over("seconds", "train/tokens_per_second"), strict=True)))
    at = thinned(row.curves.metrics.get("train/tokens_per_second", []))
    clock = [[step for step, _ in at], [_short(s) for s, _ in seconds]] if len(at) == len(seconds) else [[], []]
    return {
        "name": report.label(row, seed=True),
        "group": row.group,
        "family": row.name.family,
        "finished": row.run.status == "finished",
        "pruned": row.run.status == "pruned",
        "score": finite(row.figures[report.score.key]),
        "asked": {key: row.asked[key] if _plain(row.asked[key]) else shown(row.asked[key]) for key in report.varied},
        "tokens": row.curves.tokens_per_step,
        "stages": [[each.step, each.position / sizes.first, each.size / sizes.first] for each in sizes.stages],
        "flops": row.curves.flops_per_token,
        "clock": clock,
        "curves": drawn,
    }


def _differs(key: str, every: Sequence[dict[str, Any]]) -> bool:
    return len({repr(each.get(key)) for each in every}) > 1


def _plain(value: Any) -> bool:
    """Return whether a setting is a finite number, which has a place on an axis."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
