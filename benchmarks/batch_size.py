"""Steps and loss with a batch that grows, beside a constant one, on the bundled text, over several seeds.

    python benchmarks/batch_size.py [--seeds 3] [--rates 2e-3 4e-3 8e-3] [--out results.json]

A small model (2 layers, width 64, context 64) reads 7,200 windows in batches of 8. Its learning rate is the best of
some, chosen with a seed that is not measured; all others begin with it, and it grows as the root of their batch. They
read the same text in the same order: with 16 sequences from the 1,200th on and 32 from the 2,800th (`growing`), for as
many tokens and for 15% more, or from the 2,400th and the 4,800th on (`growing later`); with the sizes that `gptlab
batch` has found (`as found`); and with a larger batch from the start. Differences are of runs with one seed,
with Student's interval of their mean.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import t as student
from side_by_side import described, fresh, interleaved, machine, succeeded, table, write

LEVEL = 0.95
BATCH, WINDOWS, LONGER = 8, 7200, 1.15
CONSTANT, GROWING, LATER, LONG, LARGE = "constant 8", "growing", "growing later", "growing, longer", "constant 16"
FOUND = "as found"  # by gptlab batch, with a run of another seed and a constant rate: docs/planning.md
GROWS = {GROWING: "[[1200,16],[2800,32]]", LATER: "[[2400,16],[4800,32]]", LONG: "[[1200,16],[2800,32]]"}
GROWS[FOUND] = "[[2400,32],[6400,64]]"
MODEL = ["model.n_layer=2", "model.n_head=2", "model.n_embd=64", "model.block_size=64"]
QUIET = ["logger=csv", "sample_prompts=[]", "trainer.val_every_n_steps=100000", "checkpoint.every_n_steps=100000"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[2e-3, 4e-3, 8e-3], help="learning rates to choose from"
    )
    parser.add_argument("--windows", type=int, default=WINDOWS, help="that the constant batch reads")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    about = machine()
    print(f"{described(about)}; {options.seeds} seeds")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.windows)
        tried = {rate: bench.train("constant", f"rate-{rate:g}", 1000, rate)["val_loss"] for rate in options.rates}
        bench.rate = min(tried, key=lambda rate: tried[rate])
        print(f"learning rate {bench.rate:g}, of {', '.join(f'{rate:g}: {loss:.4f}' for rate, loss in tried.items())}")
        found, left_out = interleaved([CONSTANT, *GROWS, LARGE], options.seeds, bench.measure)
    rows = {name: summary(runs, found[CONSTANT]) for name, runs in found.items()}
    heads = ("", "steps", "fewer", "tokens", "val loss", "above constant's", f"{LEVEL:.0%} interval")
    table(heads, [[name, *cells(row)] for name, row in rows.items()])
    if options.out:
        chosen = {"rate": bench.rate, "tried": {f"{rate:g}": loss for rate, loss in tried.items()}}
        work = {"name": "bundled", **chosen, "level": LEVEL, "candidates": rows, "left_out": left_out}
        write(options.out, {"machine": about, "repeats": options.seeds, "workloads": [work]})


class Bench:
    """One candidate with one seed at a time, in a process of its own."""

    def __init__(self, folder: Path, windows: int) -> None:
        self.folder, self.windows, self.rate = folder, windows, 0.0
        self.runs = dict.fromkeys((CONSTANT, *GROWS, LARGE), 0)

    def measure(self, name: str) -> dict[str, Any]:
        seed = self.runs[name] = self.runs[name] + 1
        return self.train(name, f"{name.replace(', ', '-').replace(' ', '-')}-{seed}", seed, self.rate)

    def train(self, name: str, run: str, seed: int, rate: float) -> dict[str, Any]:
        batch = 16 if name == LARGE else BATCH
        tokens = 64 * self.windows * (LONGER if name == LONG else 1)
        more = [f"schedule.batch={GROWS[name]}"] if name in GROWS else []
        length = [f"data.batch_size={batch}", "budget.steps=null", f"budget.tokens={tokens:.0f}"]
        learning = [f"optimizer.lr={rate * math.sqrt(batch / BATCH)!r}", f"seed={seed}"]
        asked = [*MODEL, *QUIET, *length, *learning, *more, f"run_dir={self.folder / run}"]
        done = succeeded(fresh([sys.executable, "-m", "gptlab", "train", *asked], cwd=self.folder))
        said = json.loads((self.folder / run / "summary.json").read_text())
        return {"seed": seed, **{key: said[key] for key in ("val_loss", "steps", "tokens")}, "seconds": done.seconds}


def summary(runs: list[dict[str, Any]], constant: list[dict[str, Any]]) -> dict[str, Any]:
    above = [run["val_loss"] - other["val_loss"] for run, other in zip(runs, constant, strict=True)]
    several = len(above) > 1 and runs is not constant
    error = statistics.stdev(above) / math.sqrt(len(above)) if several else 0.0
    wide = float(student.ppf((1 + LEVEL) / 2, len(above) - 1)) * error if several else None
    mean = statistics.mean(above)
    return {
        "steps": runs[0]["steps"],
        "fewer": 1 - runs[0]["steps"] / constant[0]["steps"],
        "tokens": runs[0]["tokens"],
        "val_loss": statistics.mean(run["val_loss"] for run in runs),
        "above": mean,
        "interval": None if wide is None else [mean - wide, mean + wide],
        "runs": runs,
    }


def cells(row: dict[str, Any]) -> list[str]:
    between = "" if row["interval"] is None else "{:+.4f} to {:+.4f}".format(*row["interval"])
    figures = f"{row['steps']:,}", f"{row['fewer']:.0%}", f"{row['tokens']:,}", f"{row['val_loss']:.4f}"
    return [*figures, f"{row['above']:+.4f}", between]


if __name__ == "__main__":
    main()
