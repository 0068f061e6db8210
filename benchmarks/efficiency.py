"""Loss against wall-clock: the modern recipe beside GPT-2's on Shakespeare by characters, over several seeds.

    python benchmarks/efficiency.py --text input.txt [--seeds 5] [--short 400] [--nanogpt DIR] [--out results.json]

GPT-2's recipe is nanoGPT's for a CPU: `experiment=shakespeare_char`, and with --nanogpt the checkout itself. The modern
one, `experiment=modern_char`, runs as many steps, and once more planned for --short ones. Losses of gptlab are of all
held-out text; nanoGPT prints its own, of a sample of it. Seconds are of whole processes, from start to end.
"""

import argparse
import hashlib
import json
import math
import pickle
import re
import statistics
import sys
import tempfile
from array import array
from pathlib import Path
from typing import Any

from side_by_side import described, fresh, interleaved, machine, succeeded, table, write

TARGET = 1.88  # what nanoGPT's README reports for this recipe
GPT2, MODERN, SHORT, NANOGPT = "gpt2", "modern", "modern, short", "nanogpt"
RECIPE = {
    "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 100, "block_size": 64, "batch_size": 12,
    "n_layer": 4, "n_head": 4, "n_embd": 128, "dropout": 0.0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="the plays, if there is no network to download them")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--short", type=int, default=400, help="steps of the short modern run")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; with --text")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    if options.nanogpt and not options.text:
        parser.error("--nanogpt needs the plays: --text input.txt")
    about = machine()
    print(f"{described(about)}; {options.seeds} seeds")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        names = [GPT2, MODERN, SHORT, *([NANOGPT] if options.nanogpt else [])]
        found, left_out = interleaved(names, options.seeds, bench.measure)
    rows = {name: summary(runs, found[GPT2]) for name, runs in found.items()}
    heads = ("", "steps", "seconds", "of gpt2's", "val loss", "± s.e.", f"at most {TARGET}")
    table(heads, [[name, *cells(row)] for name, row in rows.items()])
    if options.out:
        work = {"name": "shakespeare_char", "target": TARGET, "candidates": rows, "left_out": left_out}
        write(options.out, {"machine": about, "repeats": options.seeds, "workloads": [work]})


class Bench:
    """One recipe with one seed at a time, in a fresh process."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.nanogpt, self.runs = folder, options.nanogpt, dict.fromkeys((GPT2, MODERN, SHORT, NANOGPT), 0)
        self.source = []
        if options.text:
            sha256 = hashlib.sha256(options.text.read_bytes()).hexdigest()
            self.source = [f"data.url={options.text.resolve().as_uri()}", f"data.sha256={sha256}"]
        self.steps, self.short = options.steps, options.short
        if options.nanogpt:
            nanogpt_data(folder / "data/shakespeare_char", options.text.read_text())
        self.gptlab("shakespeare_char", "prepares-the-text", "budget.steps=1")

    def measure(self, name: str) -> dict[str, Any]:
        seed = self.runs[name] = self.runs[name] + 1
        if name == NANOGPT:
            return self.theirs(seed)
        steps = self.short if name == SHORT else self.steps
        recipe = "shakespeare_char" if name == GPT2 else "modern_char"
        return self.gptlab(recipe, f"{name.replace(', ', '-')}-{seed}", f"seed={seed}", f"budget.steps={steps}")

    def gptlab(self, recipe: str, run: str, *overrides: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "gptlab", "train", f"experiment={recipe}", *self.source, *overrides]
        env = {"GPTLAB_CACHE": str(self.folder / "cache"), "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
        done = succeeded(fresh([*command, f"run_dir={self.folder / run}"], env, self.folder))
        said = json.loads((self.folder / run / "summary.json").read_text())
        return {"seconds": done.seconds, "val_loss": said["val_loss"], "steps": said["steps"], "fit": said["seconds"]}

    def theirs(self, seed: int) -> dict[str, Any]:
        """Run nanoGPT's train.py as its README starts it on a CPU, with another seed."""
        code = (self.nanogpt / "train.py").read_text().replace("manual_seed(1337", f"manual_seed({1337 + seed}")
        (self.folder / "nanogpt.py").write_text(code)
        script = [sys.executable, self.folder / "nanogpt.py", self.nanogpt / "config/train_shakespeare_char.py"]
        length = {"max_iters": self.steps, "lr_decay_iters": self.steps}
        options = {**RECIPE, **length, "out_dir": str(self.folder / "out")}
        given = [f"--{key}={value}" for key, value in options.items()]
        for name in ("model.py", "configurator.py"):
            (self.folder / name).write_text((self.nanogpt / name).read_text())
        done = succeeded(fresh([*script, *given], cwd=self.folder))
        losses = re.findall(r"^step (\d+): train loss \S+, val loss (\S+)", done.out, re.MULTILINE)
        return {"seconds": done.seconds, "val_loss": float(losses[-1][1]), "steps": int(losses[-1][0])}


def nanogpt_data(folder: Path, text: str) -> None:
    """Write the data that nanoGPT's prepare.py makes: the first nine tenths for training, one token per character."""
    letters = sorted(set(text))
    stoi = {letter: i for i, letter in enumerate(letters)}
    folder.mkdir(parents=True)
    cut = int(0.9 * len(text))
    for name, part in {"train": text[:cut], "val": text[cut:]}.items():
        (folder / f"{name}.bin").write_bytes(array("H", [stoi[letter] for letter in part]).tobytes())
    meta = {"vocab_size": len(letters), "stoi": stoi, "itos": dict(enumerate(letters))}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def summary(runs: list[dict[str, Any]], gpt2: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [run["val_loss"] for run in runs]
    ratios = [run["seconds"] / other["seconds"] for run, other in zip(runs, gpt2, strict=True)]  # of the same round
    return {
        "steps": runs[0]["steps"],
        "val_loss": statistics.mean(losses),
        "standard_error": statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else None,
        "reached": sum(loss <= TARGET for loss in losses),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "of_gpt2": statistics.median(ratios),
        "runs": runs,
    }


def cells(row: dict[str, Any]) -> list[str]:
    error = "" if row["standard_error"] is None else f"{row['standard_error']:.4f}"
    reached = f"{row['reached']} of {len(row['runs'])}"
    figures = f"{row['steps']:,}", f"{row['seconds']:.1f}", f"{row['of_gpt2']:.2f}", f"{row['val_loss']:.4f}"
    return [*figures, error, reached]


if __name__ == "__main__":
    main()
