"""Measure how the time and memory of `gptlab report` grow with the number of runs.

    python benchmarks/report.py [--runs 100 1000 10000] [--out results.json]

The runs are copies of one that is trained here for a moment, with losses of their own, in groups of five seeds of
twenty learning rates or more; each report is a fresh process without pictures.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import LeftOut, described, fresh, machine, table, write

GPTLAB = [sys.executable, "-m", "gptlab"]
TINY = ["trainer=cpu", "model.n_layer=1", "model.n_head=1", "model.n_embd=16", "model.block_size=16"]
TINY += [
    "tokenizer=byte",
    "budget.steps=40",
    "trainer.val_every_n_steps=2",
    "logger.every_n_steps=1",
    "sample_prompts=[]",
]
COPIED = ("config.yaml", "metrics.csv", "summary.json", "tokenizer")
SEEDS, RATES = 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "rows": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {"GPTLAB_CACHE": str(folder / "cache")}
        run(["train", *TINY, "run_dir=run"], env, folder)
        for count in options.runs:
            copy_runs(folder / "run", folder / f"{count}", count)
            asked = ["report", f"runs={folder / str(count)}", f"out={folder / 'out'}", "pictures=false"]
            done = run(asked, env, folder)
            page = (folder / "out/report.html").stat().st_size / 1e6
            shutil.rmtree(folder / str(count))
            results["rows"].append({"runs": count, "seconds": done.seconds, "peak_mb": done.peak_mb, "page_mb": page})
    print(described(results["machine"]))
    cells = [
        [f"{row['runs']:,}", *(f"{row[key]:.1f}" for key in ("seconds", "peak_mb", "page_mb"))]
        for row in results["rows"]
    ]
    table(("runs", "seconds", "peak MB", "page MB"), cells)
    if options.out:
        write(options.out, results)


def run(arguments: list[str], env: dict[str, str], folder: Path) -> Any:
    done = fresh([*GPTLAB, *arguments], env, folder)
    if done.code:
        raise LeftOut(done.why())
    return done


def copy_runs(run: Path, to: Path, count: int) -> None:
    """Copy a run so many times, each with a seed, a learning rate and a loss of its own."""
    draws, config = random.Random(0), (run / "config.yaml").read_text()
    summary = json.loads((run / "summary.json").read_text())
    for number in range(count):
        folder = to / f"{number:05d}"
        folder.mkdir(parents=True)
        for name in COPIED:
            (shutil.copytree if (run / name).is_dir() else shutil.copy)(run / name, folder / name)
        seed, rate = number % SEEDS, 1e-4 * (1 + number // SEEDS % max(RATES, count // 100))
        (folder / "config.yaml").write_text(changed(config, {"seed": str(seed), "  lr": f"{rate:.6g}"}))
        told = {"val_loss": summary["val_loss"] + draws.gauss(0, 0.01), "seed": seed, "run_dir": str(folder)}
        (folder / "summary.json").write_text(json.dumps(summary | told))


def changed(config: str, values: dict[str, str]) -> str:
    """Return a config with other values of keys that stand once in it."""
    lines = config.splitlines()
    for key, value in values.items():
        (place,) = (n for n, line in enumerate(lines) if line.startswith(f"{key}: "))
        lines[place] = f"{key}: {value}"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
