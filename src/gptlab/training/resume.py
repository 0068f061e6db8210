"""Going on with a run in its own directory: what was asked for again, what must not change, what has to be put back."""

import csv
from pathlib import Path
from typing import Any

import torch

from gptlab.errors import UserError, require
from gptlab.rundir import RunDir

# fields whose change would make the continuation a lie; of `data` all but how batches are computed
FIXED = ("model", "tokenizer", "data", "seed")
FREE = {"data.micro_batch_size", "data.num_workers", "data.other_data_ok"}


def checkpoint_of(run: RunDir) -> tuple[Path, int]:
    """Where a run is to go on, and after how many steps."""
    try:
        step = torch.load(run.checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except Exception as error:  # whatever a damaged file makes of torch.load
        why, todo = f"its {run.checkpoint.name} is damaged", "name another checkpoint of the run"
        raise UserError("resume", run.checkpoint, why, todo) from error
    return run.checkpoint, int(step)


def require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a continuation with another model, tokenizer, text or seed, by name."""
    for key, old, new in _differences({k: before.get(k) for k in FIXED}, {k: now.get(k) for k in FIXED}, ""):
        why, todo = f"but the run that is resumed has {old}", "leave it out, or start a new run"
        require(key in FREE, key, new, why, todo)


def _differences(before: Any, now: Any, key: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*now, *(name for name in before if name not in now)]
        found = [_differences(before.get(n), now.get(n), f"{key}.{n}".lstrip(".")) for n in names]
        return [difference for each in found for difference in each]
    return [] if before == now else [(key, before, now)]


def fresh_loops(loops: dict[str, Any], step: int, accumulate: int) -> dict[str, Any]:
    """Lightning's loop state as if an epoch began at `step`: its own restart inside an epoch repeats batches of the
    loader and leaves others out; ours begins at any step (TrainBatches)."""
    optimizer = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    for progress in (optimizer, loops["epoch_loop.scheduler_progress"]):
        progress["total"] = {"ready": step, "completed": step}
    batches = loops["epoch_loop.batch_progress"]["total"]  # what validation counts by
    loops["epoch_loop.batch_progress"]["total"] = dict.fromkeys(batches, step * accumulate)
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step
    return loops


def metrics_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of metrics.csv up to a step; later ones will come again."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [row for row in rows if int(row["step"]) <= step]


def samples_until(path: Path, step: int) -> None:
    """Cut samples.md after a step."""
    if path.exists():
        head, *sections = path.read_text(encoding="utf-8").split("## step ")
        kept = [section for section in sections if int(section.split(maxsplit=1)[0]) <= step]
        path.write_text("".join([head, *(f"## step {section}" for section in kept)]), encoding="utf-8")
