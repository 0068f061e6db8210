"""Measure the time before anything happens, beside that of importing torch and lightning alone.

    python benchmarks/startup.py [--repeats 5] [--imports 20] [--out results.json] [OVERRIDES of the run]

Every figure is of fresh processes, in rounds. A first token is all of `gptlab sample`, for one token. The first step is
that of the default run, or the one that overrides ask for, with its text prepared: from the start of the command until
the first row of metrics.csv is there.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import THREADS, Figure, LeftOut, described, fresh, interleaved, machine, table, write

GPTLAB = [sys.executable, "-m", "gptlab"]
IMPORTS = "imports"  # of torch and lightning, without the interpreter's end
TORCH = "import torch"
FIRST_STEP, FIRST_TOKEN = "first step", "first token"
COMMANDS: dict[str, list[str]] = {
    "gptlab --help": [*GPTLAB, "--help"],
    "gptlab train --help": [*GPTLAB, "train", "--help"],
    "gptlab train --cfg job": [*GPTLAB, "train", "--cfg", "job"],
    TORCH: [sys.executable, "-c", "import torch, os; os._exit(0)"],
    FIRST_TOKEN: [*GPTLAB, "sample", "run=sampled", "prompt=The", "max_new_tokens=1"],
    IMPORTS: [sys.executable, "-c", "import torch, lightning, os; os._exit(0)"],
}
GOALS = {"gptlab --help": 0.3, "gptlab train --help": 1.5, "gptlab train --cfg job": 1.5, "first step - imports": 3.0}
GOALS["first token - import torch"] = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--imports", type=int, default=0, help="also list so many of the slowest imports of a training")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("overrides", nargs="*", help="of the run whose first step is measured, as model=small")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.repeats, options.overrides)
        if options.imports:
            slowest_imports(Path(folder), options.imports)
    if options.out:
        write(options.out, results)


def measure(folder: Path, repeats: int, overrides: list[str]) -> dict[str, Any]:
    here = machine()
    env = {"GPTLAB_CACHE": str(folder / "cache")}

    def seconds(name: str) -> dict[str, Any]:
        if name == FIRST_STEP:
            return {"seconds": first_step(folder / "runs", env, overrides)}
        done = fresh(COMMANDS[name], env, folder)
        if done.code:
            raise LeftOut(done.why())
        return {"seconds": done.seconds}

    # it prepares the text too, and warms the files of all libraries
    made = fresh([*GPTLAB, "train", "run_dir=sampled", *overrides, "budget.steps=1"], env, folder)
    if made.code:
        raise SystemExit(f"gptlab train failed: {made.why()}")
    rounds, left_out = interleaved([*COMMANDS, FIRST_STEP], repeats, seconds)
    each = {name: [row["seconds"] for row in rows] for name, rows in rounds.items()}
    for first, below in ((FIRST_STEP, IMPORTS), (FIRST_TOKEN, TORCH)):
        each[f"{first} - {below}"] = [a - b for a, b in zip(each[first], each[below], strict=True)]
    found = {name: Figure.of(values) for name, values in each.items()}
    print(f"{described(here)}; seconds, {repeats} rounds of fresh processes")
    rows = [
        [name, f"{f.median:.2f}", f"{f.low:.2f} to {f.high:.2f}", f"under {GOALS[name]}" if name in GOALS else ""]
        for name, f in found.items()
    ]
    table(["", "median", "of", "goal"], rows)
    candidates = {name: {"seconds": figure} for name, figure in found.items()}
    workload = {"name": "startup", "candidates": candidates, "left_out": left_out}
    return {"machine": here, "repeats": repeats, "workloads": [workload]}


def first_step(runs: Path, env: dict[str, str], overrides: list[str]) -> float:
    """Seconds from the start of `gptlab train` to its first logged step; the run is then killed."""
    with tempfile.TemporaryDirectory(dir=runs.parent) as run:
        metrics = Path(run) / "run/metrics.csv"
        command = [*GPTLAB, "train", f"run_dir={metrics.parent}", "logger.every_n_steps=1", *overrides]
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), **env}
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while not rows(metrics):
                if process.poll() is not None:
                    raise SystemExit(f"gptlab train ended before its first step:\n{process.communicate()[0].decode()}")
                time.sleep(0.005)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.communicate()


def rows(metrics: Path) -> int:
    """Return the number of steps in metrics.csv."""
    with contextlib.suppress(FileNotFoundError):
        return max(0, metrics.read_text().count("\n") - 1)
    return 0


def slowest_imports(folder: Path, count: int) -> None:
    """Of a training that ends after one step: libraries by their own time, then modules with all below."""
    command = [sys.executable, "-X", "importtime", "-m", "gptlab", "train", "budget.steps=1"]
    done = fresh(command, {"GPTLAB_CACHE": str(folder / "cache")}, folder)
    found = re.findall(r"^import time:\s+(\d+) \|\s+(\d+) \|( *)(\S+)$", done.error, re.MULTILINE)
    libraries: dict[str, float] = {}
    for alone, _, _, name in found:
        top = name.partition(".")[0]
        libraries[top] = libraries.get(top, 0) + int(alone) / 1e6
    print("\nseconds of imports by library, then by module with what it imports")
    best = sorted(libraries.items(), key=lambda item: -item[1])[:count]
    table(["library", "seconds"], [[name, f"{seconds:.3f}"] for name, seconds in best])
    modules = sorted(((int(all_) / 1e6, name) for _, all_, _, name in found), reverse=True)[:count]
    table(["module", "seconds"], [[name, f"{seconds:.3f}"] for seconds, name in modules])


if __name__ == "__main__":
    main()
