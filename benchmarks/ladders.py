"""Repeat a small ladder with ten seeds: how often does the interval of its prediction hold the largest run?

    python benchmarks/ladders.py [--quick] [--seeds 10] [--folder DIR] [--out results.json]

A ladder is four depths with four budgets each, the smaller budgets branched off larger ones. From all runs but the
largest, `gptlab scaling` predicts that one, and registers it; then it is trained, and scored. All runs are in one
process, of one thread if OMP_NUM_THREADS=1; those that a folder has are not run again.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from side_by_side import described, machine, table, write

from gptlab.config import compose
from gptlab.registry import find_command
from gptlab.training.run import train

DEPTHS, STEPS = (1, 2, 3, 4), (640, 480, 360, 270)
TEXT = ["tokenizer.vocab_size=512", "data.val_fraction=0.03", "model.block_size=64"]
LADDER = ["experiment=ladder", "model.aspect=16", "budget.tokens_per_param=null", "data.batch_size=8", *TEXT]
# lower rates than the dial's, which are for longer budgets
RATES = {n: [f"optimizer.lr={6e-4 * (48 / n) ** 0.5:g}", f"optimizer.weight_decay={0.4 / n:g}"] for n in DEPTHS}
QUIET = ["logger=csv", "trainer=cpu", "trainer.enable_progress_bar=false"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one ladder of three sizes and budgets, of a few steps")
    parser.add_argument("--seeds", type=int, default=10, help="how many ladders")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    depths, steps = (DEPTHS[:3], [each // 40 for each in STEPS[:3]]) if options.quick else (DEPTHS, [*STEPS])
    results: dict[str, Any] = {"machine": machine(), "overrides": LADDER, "depths": depths, "steps": steps}
    results |= {"ladders": []}
    print(described(results["machine"]))
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, 2 if options.quick else options.seeds + 1):
            found = ladder((options.folder or Path(folder)) / str(seed), seed, depths, steps)
            results["ladders"].append(found)
            told = {key: f"{found[key]:.4f}" for key in ("predicted", "low", "high", "loss", "error")}
            print(seed, told, "inside" if found["inside"] else "outside", f"{found['seconds']:.0f} s", flush=True)
    ladders = results["ladders"]
    results["inside"] = sum(each["inside"] for each in ladders)
    results["median_error"] = statistics.median(abs(each["error"]) for each in ladders)
    rows = [["inside", f"{results['inside']} of {len(ladders)}"], ["median error", f"{results['median_error']:.4f}"]]
    table(("", ""), rows)
    if options.out:
        write(options.out, results)


def ladder(folder: Path, seed: int, depths: Sequence[int], steps: list[int]) -> dict[str, Any]:
    """Train, predict, train the largest, and score it."""
    begun = time.process_time()
    for depth in depths:
        first, *others = steps if depth < depths[-1] else steps[1:]
        trunk = folder / f"runs/{depth}-{first}"
        # a fifth of a budget is its decay: the largest run branches off before that of the next smaller one
        run(trunk, seed, depth, first, f"checkpoint.horizons={others}", f"checkpoint.every_n_steps={first * 4 // 5}")
        for fewer in others:
            run(folder / f"runs/{depth}-{fewer}", seed, depth, fewer, f"resume={trunk}")
    told, largest = folder / "prediction.json", folder / "largest"
    if not told.exists():
        longest = _summary(folder / f"runs/{depths[-1]}-{steps[1]}")
        tokens = longest["tokens"] * steps[0] // steps[1]
        asked = [f"runs={folder / 'runs'}", f"parameters={longest['parameters']}", f"tokens={tokens}"]
        scaling([*asked, f"predict={told}"])
    at = f"resume={folder}/runs/{depths[-1]}-{steps[1]}/checkpoints/step-{steps[1] * 4 // 5}.ckpt"
    run(largest, seed, depths[-1], steps[0], at)
    outcome = told.with_suffix(".outcome.json")
    if not outcome.exists():
        scaling([f"score={told}", f"run={largest}"])
    found = json.loads(outcome.read_text()) | {"run": f"{seed}/largest"}
    return {"seed": seed, **found, "seconds": time.process_time() - begun}


def run(folder: Path, seed: int, depth: int, steps: int, *more: str) -> None:
    """Train one run, unless it has been."""
    if (folder / "summary.json").exists() and _summary(folder)["status"] == "finished":
        return
    asked = [f"seed={seed}", f"model.depth={depth}", *RATES[depth], f"budget.steps={steps}", f"run_dir={folder}", *more]
    with contextlib.redirect_stdout(io.StringIO()):
        train(compose("train", [*LADDER, *QUIET, *asked]))


def _summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def scaling(overrides: list[str]) -> None:
    """Run the verb `scaling`."""
    with contextlib.redirect_stdout(io.StringIO()):
        find_command("scaling").function(compose("scaling", overrides))


if __name__ == "__main__":
    main()
