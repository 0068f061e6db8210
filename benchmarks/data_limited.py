"""A search for the best held-out loss on little text: the bundled one, at any compute; and what each part gives.

    python benchmarks/data_limited.py search --folder DIR --out found.json [--jobs 8]
    python benchmarks/data_limited.py final --folder DIR --found found.json --out results.json [--seeds 5]

`search` never sees the held-out text: it divides the documents that are trained on again, and chooses by the second
held-out part. It begins at one setting, changes one factor at a time, takes the best level of each, and does so again
from there; the second round also shows what is lost where one part goes back to what the default run has. The default
run's budget is chosen in the same way. `final` trains both on all that may be trained on and scores them, and the
ensemble of the found runs, on the held-out text, once.
"""

import argparse
import json
import shutil
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from side_by_side import DEVICES, LeftOut, described, device, fresh, machine, succeeded, table, write

BITS, LOSS = "val_bits_per_byte", "val_loss"
VAL_FRACTION = 0.1
GAIN = 0.002  # bits per byte that a level must give to be taken: less is noise between seeds
PLAIN: list[str] = []
MODERN = [
    "model.positions=rope",
    "model.norm=rms",
    "model.feed_forward=relu2",
    "model.qk_norm=true",
    "model.tied=false",
    "model.init=zero",
    "model.bias=false",
]


def shape(layers: int, width: int, heads: int) -> list[str]:
    return [f"model.n_layer={layers}", f"model.n_embd={width}", f"model.n_head={heads}"]


# each factor's levels; the first is what the default run has
FACTORS: dict[str, dict[str, list[str]]] = {
    "layers x width": {
        "4 x 128": shape(4, 128, 4),
        "4 x 256": shape(4, 256, 4),
        "6 x 384": shape(6, 384, 6),
        "6 x 512": shape(6, 512, 8),
    },
    "context": {"128": ["model.block_size=128"], "256": ["model.block_size=256"]},
    "architecture": {"GPT-2": PLAIN, "modern": MODERN},
    "optimizer": {
        "AdamW, 1e-3": ["optimizer=adamw", "optimizer.lr=1e-3"],
        "AdamW, 3e-3": ["optimizer=adamw", "optimizer.lr=3e-3"],
        "Muon, 2e-3": ["optimizer=muon", "optimizer.lr=2e-3"],
        "Muon, 5e-3": ["optimizer=muon", "optimizer.lr=5e-3"],
    },
    "weight decay": {each: [f"optimizer.weight_decay={each}"] for each in ("0.1", "1.0", "3.0")},
    "dropout": {each: [f"model.dropout={each}"] for each in ("0.0", "0.1", "0.2", "0.3", "0.4")},
    "epochs": {each: [f"budget.epochs={each}"] for each in ("8", "16", "32")},
    "averaging": {"none": [], "0.995": ["ema=0.995"]},
    "repacking": {"off": [], "on": ["data.repack=true"]},
}
BEGIN = {
    "layers x width": "6 x 384",
    "context": "256",
    "architecture": "modern",
    "optimizer": "Muon, 2e-3",
    "weight decay": "0.1",
    "dropout": "0.2",
    "epochs": "16",
    "averaging": "none",
    "repacking": "off",
}
BATCH = ["data.batch_size=32", "budget.steps=null", "schedule=linear"]
DEFAULT_STEPS = (1000, 2000, 4000, 8000, 16000)
QUIET = ["logger=csv", "sample_prompts=[]", "trainer.val_every_n_steps=1000000", "checkpoint.every_n_steps=1000000"]
QUIET += ["trainer.enable_progress_bar=false"]
FAST = {"cpu": [], "cuda": ["trainer=gpu", "trainer.devices=1", "trainer.precision=bf16-mixed", "compile=true"]}
DEFAULT_FAST = {"cpu": [], "cuda": ["trainer=gpu", "trainer.devices=1", "trainer.precision=32-true", "compile=true"]}

TUNED_AGAIN = ("weight decay", "dropout", "epochs")  # in later rounds; other factors only go back to their first level

Levels = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("search", "final"))
    parser.add_argument("--folder", type=Path, required=True, help="texts and runs are kept here")
    parser.add_argument("--documents", type=Path, help="a JSON list; none: the bundled text of this Python")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5, help="of final")
    parser.add_argument("--found", type=Path, help="what search wrote, for final")
    parser.add_argument("--also", nargs="*", default=[], help="overrides of all trainings")
    parser.add_argument("--out", type=Path, required=True, help="write the results here, as JSON, after each round")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.device = device(options.device)
    bench = Bench(options)
    (search if options.stage == "search" else final)(bench, options)


class Bench:
    """The texts, and trainings on them, several at once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder, self.device, self.jobs, self.also = options.folder, options.device, options.jobs, options.also
        self.texts = divided(options.folder / "texts", options.documents)
        self.about = machine()
        print(f"{described(self.about)}; {self.jobs} at once", flush=True)

    def train_all(self, asked: dict[str, list[str]], texts: str) -> dict[str, dict[str, Any]]:
        """Train each, by its name; one that fails is left out, and said."""
        with ThreadPoolExecutor(self.jobs) as pool:
            waiting = {name: pool.submit(self.train, name, overrides, texts) for name, overrides in asked.items()}
            found = {}
            for name, each in waiting.items():
                try:
                    found[name] = each.result()
                    print(f"  {name}: {found[name][BITS]:.4f}, {found[name]['seconds']:.0f} s", flush=True)
                except LeftOut as why:
                    print(f"  {name} is left out: {why}", file=sys.stderr, flush=True)
        return found

    def train(self, name: str, overrides: list[str], texts: str) -> dict[str, Any]:
        run = self.folder / texts / "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
        train, held_out = self.texts[texts]
        data = ["data=text", f"data.files=[{train}]", f"data.val_files=[{held_out}]"]
        if not (run / "summary.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            command = [sys.executable, "-m", "gptlab", "train", *data, *QUIET, *overrides, *self.also, f"run_dir={run}"]
            succeeded(fresh(command, {"OMP_NUM_THREADS": "1"} if self.jobs > 1 else None, self.folder))
            if texts == "inner":  # gigabytes
                shutil.rmtree(run / "checkpoints", ignore_errors=True)
        said = json.loads((run / "summary.json").read_text())
        return {key: said.get(key) for key in (BITS, LOSS, "steps", "tokens", "seconds")} | {"run": str(run)}

    def together(self, runs: list[str]) -> float:
        """Return the bits per byte of several runs as one, on what they hold out."""
        command = [sys.executable, "-m", "gptlab", "evaluate", f"run=[{','.join(runs)}]", "json=true"]
        said = json.loads(succeeded(fresh(command, cwd=self.folder)).out)
        return float(said["bits_per_byte"])


def divided(folder: Path, documents: Path | None) -> dict[str, tuple[Path, Path]]:
    """Return the files of the texts: `outer`, as the bundled text is divided, and `inner`, its training part again."""
    from gptlab.data.text.bundled import english
    from gptlab.data.text.readers import Chunk
    from gptlab.data.text.splits import divide, survey

    whole = json.loads(documents.read_text()) if documents else english()
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in ("outer", "inner"):
        chunks = [Chunk(text, begins=True) for text in whole]
        parts: dict[str, list[str]] = {"train": [], "val": []}
        for part, chunk in divide(chunks, survey(chunks, VAL_FRACTION)):
            parts[part].append(chunk.text)
        files = folder / f"{name}-train.jsonl", folder / f"{name}-held-out.jsonl"
        for file, texts in zip(files, parts.values(), strict=True):
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        found[name] = files
        whole = parts["train"]
    return found


def overrides(levels: Levels, device: str) -> list[str]:
    return [*BATCH, *FAST[device], *(each for key, level in levels.items() for each in FACTORS[key][level])]


def search(bench: Bench, options: argparse.Namespace) -> None:
    """Choose by the second held-out part; rounds of one change at a time."""
    results: dict[str, Any] = {"machine": bench.about, "repeats": 1, "workloads": []}
    current = dict(BEGIN)
    asked = {f"default, {n} steps": [f"budget.steps={n}", *DEFAULT_FAST[bench.device]] for n in DEFAULT_STEPS}
    for number in range(1, options.rounds + 1):
        variants: dict[str, Levels] = {f"round {number}": current}
        for key, levels in FACTORS.items():
            for level in levels if number == 1 or key in TUNED_AGAIN else [next(iter(levels))]:
                if level != current[key]:
                    variants[f"round {number}, {key} {level}"] = {**current, key: level}
        asked |= {name: overrides(levels, bench.device) for name, levels in variants.items()}
        found = bench.train_all(asked, "inner")
        asked = {}
        base = found[f"round {number}"][BITS]
        best = dict(current)
        for key, levels in FACTORS.items():
            scored = {level: found.get(f"round {number}, {key} {level}", {}).get(BITS) for level in levels}
            scored = {level: bits for level, bits in scored.items() if bits is not None}
            top = min(scored, key=lambda level: scored[level], default=None)
            if top is not None and scored[top] < base - GAIN:
                best[key] = top
        results["workloads"].append({"name": f"round {number}", "begins": current, "ends": best, "runs": found})
        write(options.out, results)
        print(f"round {number}: {base:.4f}; {best}", flush=True)
        current = best
    if current != results["workloads"][-1]["begins"]:  # levels may not add up
        name = "all that was best"
        found = bench.train_all({name: overrides(current, bench.device)}, "inner")
        results["workloads"].append({"name": name, "begins": current, "ends": current, "runs": found})
    results["chosen"] = chosen(results)
    write(options.out, results)
    print(json.dumps(results["chosen"]))


def chosen(results: dict[str, Any]) -> dict[str, Any]:
    """The best levels of all runs, and the default run's best steps."""
    tried: list[tuple[float, Levels]] = []
    default: dict[int, float] = {}
    for work in results["workloads"]:
        for name, run in work["runs"].items():
            if name.startswith("default, "):
                default[int(name.split()[1])] = run[BITS]
                continue
            key, level = next(
                ((key, name.split(f", {key} ", 1)[1]) for key in FACTORS if f", {key} " in name), (None, None)
            )
            tried.append((run[BITS], {**work["begins"], **({key: level} if key and level else {})}))
    bits, levels = min(tried, key=lambda each: each[0])
    steps = min(default, key=lambda each: default[each])
    return {"levels": levels, BITS: bits, "default_steps": steps, f"default_{BITS}": default[steps]}


def final(bench: Bench, options: argparse.Namespace) -> None:
    """Train what was chosen on all of the training text, over seeds, and score it on the held-out text."""
    found = json.loads(options.found.read_text())["chosen"]
    kinds = {
        "default": [f"budget.steps={found['default_steps']}", *DEFAULT_FAST[bench.device]],
        "found": overrides(found["levels"], bench.device),
    }
    seeds = range(1, options.seeds + 1)
    asked = {f"{kind}-{seed}": [*each, f"seed={seed}"] for seed in seeds for kind, each in kinds.items()}
    runs = bench.train_all(asked, "outer")
    rows: dict[str, Any] = {}
    for kind in kinds:
        of_kind = [runs[f"{kind}-{seed}"] for seed in seeds if f"{kind}-{seed}" in runs]
        bits = [run[BITS] for run in of_kind]
        deviation = statistics.stdev(bits) if len(bits) > 1 else None
        rows[kind] = {"runs": of_kind, BITS: statistics.mean(bits), "deviation": deviation}
        for size in range(2, len(of_kind) + 1):
            rows[f"{kind}, {size} together"] = {BITS: bench.together([run["run"] for run in of_kind[:size]])}
    least = rows["default"][BITS]
    cells = [[name, f"{row[BITS]:.4f}", f"{row[BITS] - least:+.4f}"] for name, row in rows.items()]
    table(("", "bits/byte", "beside the default's best"), cells)
    work = {"name": "final", "chosen": found, "candidates": rows}
    write(options.out, {"machine": bench.about, "repeats": options.seeds, "workloads": [work]})


if __name__ == "__main__":
    main()
