"""Write metrics.csv, and read it back where a run goes on."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from gptlab.files import write_atomically


class MetricsFile(Logger):
    """Append a row to metrics.csv at each log; a metric that comes first rewrites the file in one step.

    `rows` are those that a resumed run has kept. A kill leaves at most the last line half written.
    """

    def __init__(self, path: Path, rows: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = []
        self._begin(rows)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: config.yaml has it all."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        if set(row).issubset(self._columns):
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        else:
            self._write([*metrics_until(self.path), row])

    @rank_zero_only
    def _begin(self, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._write(rows)
        else:
            self.path.unlink(missing_ok=True)

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the whole file, with a column for each metric that has been logged."""
        self._columns = sorted({name for row in rows for name in row})
        out = io.StringIO()
        writer = csv.DictWriter(out, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, out.getvalue().encode())


def metrics_until(path: Path, step: int = sys.maxsize) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv up to a step, without empty cells; later ones will come again."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [{key: value for key, value in row.items() if key and value} for row in csv.DictReader(file)]
    return [row for row in rows if str(row.get("step", "")).isdecimal() and int(row["step"]) <= step]
