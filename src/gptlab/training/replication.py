"""Tell whether a run that has ended lies inside the replication band of its recipe."""

import contextlib
from pathlib import Path
from typing import Any

from gptlab import plugins
from gptlab.files import conf_dir
from gptlab.runs.bands import METRIC, bands_in, reached
from gptlab.runs.reader import read_run
from gptlab.training.metrics_file import metrics_until


def replication(run_dir: Path, summary: dict[str, Any]) -> dict[str, Any] | None:
    """Return where a finished run lies in the band of its settings and data; None where they have no band.

    Bands are looked for beside the recipes of the project, of plugins, and of gptlab, in this order.
    """
    run = read_run(run_dir, run_dir.name)
    run.summary = summary
    folders = [*reversed(plugins.conf_dirs()), conf_dir()]
    band = next((band for band in bands_in(folders) if band.is_of(run)), None)
    if band is None:
        return None
    points = list[tuple[int, float]]()
    for row in metrics_until(run_dir / "metrics.csv"):
        with contextlib.suppress(KeyError, ValueError):  # of a row without it, or a damaged one: the run has ended well
            points.append((int(row["step"]), float(row[METRIC])))
    return band.judge(reached(points, summary))
