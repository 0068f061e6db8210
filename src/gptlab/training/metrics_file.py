"""Write metrics.csv, and read it back when a run is resumed."""

import contextlib
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from gptlab.files import read_bounded, sync_files, write_atomically

MOST_BYTES = 1 << 30  # of a file that is read


class MetricsFile(Logger):
    """A logger that appends a row to metrics.csv at each log; a new metric rewrites the file in one step.

    `rows` are those that a resumed run has kept. A kill or a full disk leaves at most the last line half written.
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
        """Do nothing: config.yaml has all of them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        if set(row).issubset(self._columns):
            with self.path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
        else:
            self._write([*metrics_until(self.path), row])

    @rank_zero_only
    def save(self) -> None:
        """Wait until all rows are on disk."""
        sync_files(self.path)

    @rank_zero_only
    def _begin(self, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._write(rows)
        else:
            self.path.unlink(missing_ok=True)

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        self._columns = write_rows(self.path, rows)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Write a complete metrics.csv; returns its columns, one for each metric of any row."""
    columns = sorted({name for row in rows for name in row})
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, out.getvalue().encode())
    return columns


def metrics_until(path: Path, step: int = sys.maxsize) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv up to a step, without empty cells; later ones will be logged again.

    A last line without an end is half written, and left out, as are lines that are none.
    """
    try:
        text = read_bounded(path, MOST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    whole = text.replace("\0", "").rpartition("\n")[0]
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(csv.Error):  # of a cell that never ends
        for row in csv.DictReader(whole.splitlines()):
            rows.append({key: value for key, value in row.items() if key and value})
    return [row for row in rows if _is_step(row.get("step", "")) and int(row["step"]) <= step]


def _is_step(text: str) -> bool:
    return text.isdecimal() and len(text) < 16
