"""Measure what several seeds know together: as an ensemble, as a mean of weights, and through a student.

    python benchmarks/distill.py [--seeds 5] [--no-student] [--folder DIR] [--out results.json] [budget.steps=1800 ...]

The seeds are runs of one config, that of `gptlab train` with the overrides given; the student is one more run, with
another seed and `task=distill` besides. All are scored on the text that they hold out. Runs that the folder has
already, and that have finished, are not trained again. Losses are the same on any machine, up to rounding.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import described, machine, table, write

from gptlab.commands.average import average
from gptlab.commands.evaluate import evaluate
from gptlab.commands.train import train
from gptlab.config import compose
from gptlab.runs.run_dir import RunDir

AVERAGED = 4  # checkpoints of a run, the last of those that it keeps


def trained(run_dir: Path, overrides: Sequence[str]) -> Path:
    """Train a run, unless it is there and has finished; returns its directory."""
    if RunDir(run_dir).status() != "finished":
        train(compose("train", [*overrides, f"run_dir={run_dir}", f"name={run_dir.name}", "resume=auto"]))
    return run_dir


def averaged(runs: Sequence[Path], out: Path) -> Path:
    """Write the mean of the weights of runs or checkpoints, unless it is there; returns its directory."""
    if not out.exists():
        average(compose("average", [f"runs=[{','.join(map(str, runs))}]", f"out={out}"]))
    return out


def scored(*runs: Path) -> dict[str, Any]:
    """Score a run, or several together."""
    return evaluate(compose("evaluate", [f"run=[{','.join(map(str, runs))}]"]))


def measured(folder: Path, seeds: int, student: bool, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Train what is not there yet, and score all of it; returns scores by what they are of."""
    keep = [f"checkpoint.keep_last={AVERAGED}", "checkpoint.every_n_steps=50"]
    runs = [trained(folder / f"seed-{seed}", [*overrides, *keep, f"seed={seed}"]) for seed in range(1, seeds + 1)]
    together = scored(*runs)
    singles = {Path(each["run"]).name: each for each in together["members"]}
    best = min(singles, key=lambda name: float(singles[name]["bits_per_byte"]))
    kept = sorted((folder / best / "checkpoints").glob("step-*.ckpt"), key=lambda path: int(path.stem[5:]))
    taught = ["task=distill", f"task.teacher=[{','.join(map(str, runs))}]", f"seed={seeds + 1}"]
    found = {
        **singles,
        "best seed": singles[best],
        "ensemble": together,
        "mean of the seeds' weights": scored(averaged(runs, folder / "mean-of-seeds")),
        f"mean of {len(kept)} checkpoints of the best": scored(averaged(kept, folder / "mean-of-checkpoints")),
    }
    return {**found, "student": scored(trained(folder / "student", [*overrides, *taught]))} if student else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--student", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, default=Path("outputs/distill"))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found = measured(asked.folder.absolute(), asked.seeds, asked.student, asked.overrides)
    best = float(found["best seed"]["bits_per_byte"])
    rows = [
        [name, f"{each['loss']:.4f}", f"{each['bits_per_byte']:.4f}", f"{each['bits_per_byte'] - best:+.4f}"]
        for name, each in found.items()
    ]
    here = machine()
    print(described(here))
    table(["", "loss", "bits/byte", "beside the best seed"], rows)
    if asked.out:
        write(asked.out, {"machine": here, "overrides": asked.overrides, "scores": found})


if __name__ == "__main__":
    main()
