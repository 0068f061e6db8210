"""Search a grid of 16 settings with ASHA: does it find the winner of all whole runs, and for which share of the steps?

    python benchmarks/search.py --text shakespeare.txt [--seeds 4] [--folder DIR] [--out results.json]

All runs have one seed, so that a setting's run is the same in every search, until it is pruned; searches differ in the
order of the points. The winner trained with four more seeds says how far two results may lie apart by chance. Needs
Optuna 5; sweeps that a folder has are gone on with.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import described, machine, table, write

MODEL = ["model.n_layer=2", "model.n_head=2", "model.n_embd=64", "model.block_size=64", "data.batch_size=16"]
RUN = [*MODEL, "tokenizer=char", "trainer=cpu", "sample_prompts=[]"]
GRID = {"optimizer.lr": "1e-3,3e-3,1e-2,3e-2", "model.dropout": "0,0.1", "optimizer.beta2": "0.95,0.99"}
SEARCH = ["hydra/sweeper=search", "hydra.sweeper.sampler=grid"]
SEEDS = 4  # of the winner, besides that of the search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=640)
    parser.add_argument("--seeds", type=int, default=4, help="how many searches")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        length = [f"budget.steps={options.steps}", f"trainer.val_every_n_steps={max(1, options.steps // 16)}"]
        run = [*RUN, *length, "data=text", f"data.files=[{options.text.resolve()}]"]
        grid = [f"{key}={values}" for key, values in GRID.items()]
        whole = sweep(folder / "whole", [*run, *grid, *SEARCH])
        best = min(whole, key=lambda job: job["val_loss"])
        seeds = ",".join(str(seed) for seed in range(1, 1 + SEEDS))
        again = sweep(folder / "seeds", [*run, *best["overrides"], f"seed={seeds}"])
        deviation = statistics.stdev([best["val_loss"], *(job["val_loss"] for job in again)])
        searches = []
        for seed in range(options.seeds):
            pruned = ["hydra.sweeper.pruner=asha", f"hydra.sweeper.seed={seed}"]
            jobs = sweep(folder / f"asha-{seed}", [*run, *grid, *SEARCH, *pruned])
            searches.append({"seed": seed, **beside(whole, jobs)})
    results = {"machine": machine(), "run": [*RUN, *length], "grid": GRID, "best": best, "deviation": deviation}
    results |= {"losses": [job["val_loss"] for job in whole], "searches": searches}
    print(described(results["machine"]))
    print(f"best of {len(whole)}: {best['val_loss']:.3f} with {' '.join(best['overrides'])}; deviation {deviation:.3f}")
    cells = [[each["seed"], f"{each['share_of_steps']:.0%}", f"{each['above_best']:.3f}"] for each in searches]
    table(("seed", "share of steps", "above the best"), cells)
    if options.out:
        write(options.out, results)


def beside(whole: Sequence[dict[str, Any]], pruned: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the share of all steps that a pruned search took, and how far its winner's loss is above the least."""
    least = min(job["val_loss"] for job in whole)
    found = min(job["val_loss"] for job in pruned if job["status"] == "finished")
    steps = [sum(job["steps"] for job in jobs) for jobs in (pruned, whole)]
    return {"share_of_steps": steps[0] / steps[1], "above_best": found - least}


def sweep(folder: Path, overrides: list[str]) -> list[dict[str, Any]]:
    """Return the jobs of a sweep with their swept values; one that has ended is only read."""
    asked = ["resume_sweep=" + str(folder)] if folder.exists() else ["-m", *overrides, f"hydra.sweep.dir={folder}"]
    command = [sys.executable, "-m", "gptlab", "train", *asked, "json=true"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    jobs = json.loads(done.stdout)["runs"]
    for job in jobs:
        job["overrides"] = [each for each in job["overrides"] if each.partition("=")[0] in GRID]
    return [{key: job[key] for key in ("overrides", "status", "steps", "val_loss")} for job in jobs]


if __name__ == "__main__":
    main()
