"""Tune rate, batch and weight decay at three depths: how far is the dial of `experiment=ladder` from the best?

    python benchmarks/dial.py [--quick] [--depths 2 3 4] [--seeds 5] [--tokens 20] [--folder DIR] [--out results.json]

At each depth one factor after the other is tuned, by one seed: from the dial's own value the grid goes on in both
directions until the loss falls by less than 0.001 bits per byte. What was found is then trained beside the dial with
fresh seeds, as the best of many runs of one seed flatters itself. All runs are in one process, of one thread if
OMP_NUM_THREADS=1; those that a folder has are not run again.
"""

import argparse
import contextlib
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import ttest_rel
from side_by_side import described, machine, table, write

from gptlab.config import compose
from gptlab.errors import RunFailed
from gptlab.training.run import train

TEXT = ["tokenizer.vocab_size=512", "data.val_fraction=0.03", "model.block_size=64"]
LADDER = ["experiment=ladder", "model.aspect=16", *TEXT]
QUIET = ["logger=csv", "trainer=cpu", "trainer.enable_progress_bar=false", "trainer.val_every_n_steps=1000000"]
QUIET += ["checkpoint.every_n_steps=1000000"]
GRIDS = {"optimizer.lr": 2**0.5, "data.batch_size": 2.0, "optimizer.weight_decay": 2.0}  # in the order of tuning
TUNING_SEED = 1
GAIN = 0.001  # bits per byte by which a value must be better to be taken: less is noise between seeds
BITS = "val_bits_per_byte"

Setting = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two small depths of few tokens, two seeds")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--seeds", type=int, default=5, help="fresh ones, for the dial and for what was tuned")
    parser.add_argument("--tokens", type=float, default=20.0, help="for each parameter")
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    if options.quick:
        options.depths, options.seeds, options.tokens = [1, 2], 2, 0.25
    about = machine()
    print(described(about), flush=True)
    ladder = [*LADDER, f"budget.tokens_per_param={options.tokens}"]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.folder or Path(folder), ladder)
        found = [bench.depth(depth, options.seeds) for depth in options.depths]
    show(found)
    if options.out:
        write(options.out, {"machine": about, "overrides": ladder, "tuning_seed": TUNING_SEED, "depths": found})


class Bench:
    """Trainings below a folder."""

    def __init__(self, folder: Path, ladder: list[str]) -> None:
        self.folder, self.ladder = folder, ladder

    def depth(self, depth: int, seeds: int) -> dict[str, Any]:
        """Tune, and compare what was found with the dial over fresh seeds."""
        begun = time.process_time()
        config = compose("train", [*self.ladder, f"model.depth={depth}"])
        dial = {
            "optimizer.lr": config.optimizer.lr,
            "data.batch_size": config.data.batch_size,
            "optimizer.weight_decay": config.optimizer.weight_decay,
        }
        tried: list[dict[str, Any]] = []

        def loss(setting: Setting) -> float:
            found = self.train(depth, setting, TUNING_SEED)
            tried.append({"setting": setting, BITS: found})
            return found

        tuned = dial
        for key in GRIDS:
            tuned = lowest(tuned, key, loss)
        fresh = range(TUNING_SEED + 1, TUNING_SEED + 1 + seeds)
        of = {
            name: [self.train(depth, each, seed) for seed in fresh] for name, each in (("dial", dial), ("tuned", tuned))
        }
        above = [a - b for a, b in zip(of["dial"], of["tuned"], strict=True)]
        interval = None
        if tuned != dial:
            found = ttest_rel(of["dial"], of["tuned"]).confidence_interval(0.95)
            interval = [float(found.low), float(found.high)]
        row = {"depth": depth, "dial": dial, "tuned": tuned, "losses": of, "above": statistics.mean(above)}
        print(depth, dial, tuned, f"{row['above']:+.4f}", f"{time.process_time() - begun:.0f} s", flush=True)
        return {**row, "interval": interval, "tried": tried, "seconds": time.process_time() - begun}

    def train(self, depth: int, setting: Setting, seed: int) -> float:
        """Return the held-out bits per byte of a run; infinite if it diverged."""
        asked = [f"{key}={value:g}" for key, value in setting.items()]
        run = self.folder / str(depth) / "-".join([each.rpartition(".")[2] for each in asked] + [f"seed={seed}"])
        if self.status(run) not in ("finished", "failed"):
            shutil.rmtree(run, ignore_errors=True)
            shape = [f"model.depth={depth}", f"seed={seed}", f"run_dir={run}"]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(RunFailed):
                train(compose("train", [*self.ladder, *QUIET, *shape, *asked]))
        if self.status(run) != "finished":
            return float("inf")
        return float(json.loads((run / "summary.json").read_text())[BITS])

    @staticmethod
    def status(run: Path) -> str | None:
        """Return how a run ended; None if it has not begun."""
        summary = run / "summary.json"
        return str(json.loads(summary.read_text())["status"]) if summary.exists() else None


def lowest(begin: Setting, key: str, loss: Callable[[Setting], float]) -> Setting:
    """Return the setting with the best value of one key: both ways from where it stands, until that gains nothing."""
    best = {**begin}
    least = loss(best)
    for factor in (GRIDS[key], 1 / GRIDS[key]):
        here = best
        while True:
            value = here[key] * factor
            here = {**here, key: type(begin[key])(float(f"{value:.4g}"))}
            if here[key] == 0 or (found := loss(here)) > least - GAIN:
                break
            best, least = here, found
    return best


def show(found: list[dict[str, Any]]) -> None:
    rows = []
    for each in found:
        dial, tuned = (statistics.mean(each["losses"][name]) for name in ("dial", "tuned"))
        settings = (" ".join(f"{value:.3g}" for value in each[name].values()) for name in ("dial", "tuned"))
        interval = "" if each["interval"] is None else "{:+.4f} to {:+.4f}".format(*each["interval"])
        rows.append([str(each["depth"]), *settings, f"{dial:.4f}", f"{tuned:.4f}", f"{each['above']:+.4f}", interval])
    table(("depth", "dial: rate batch decay", "tuned", "bits/byte", "tuned", "above", "95%"), rows)


if __name__ == "__main__":
    main()
