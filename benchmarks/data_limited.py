"""A search for the best held-out loss on little text: the bundled one, at any compute; and what each part gives.

    python benchmarks/data_limited.py search --folder DIR --out found.json [--jobs 8]
    python benchmarks/data_limited.py final --folder DIR --found found.json --out results.json [--seeds 5]

`search` never sees the held-out text: it divides the documents that are trained on again, and chooses by the second
held-out part. It changes one factor of a setting at a time (`alone`), then tries the combinations that the first search
led to (`together`). The default run's budget is chosen in the same way. `final` trains both on all that may be trained
on and scores them, and the ensembles of their seeds, on the held-out text, once.
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
    "weight decay": {each: [f"optimizer.weight_decay={each}"] for each in ("0.1", "1.0", "3.0", "6.0", "10.0")},
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
FAST = {
    "cpu": ["trainer.precision=auto"],
    "cuda": ["trainer=gpu", "trainer.devices=1", "trainer.precision=bf16-mixed", "compile=true"],
}
DEFAULT_FAST = {"cpu": [], "cuda": ["trainer=gpu", "trainer.devices=1", "trainer.precision=32-true", "compile=true"]}

ALONE = {"weight decay": ("1.0", "3.0")}  # the levels that are tried by themselves, if not all
# tried second: what they change of what was best alone
BEST = {**BEGIN, "weight decay": "3.0", "dropout": "0.3", "repacking": "on"}
TOGETHER: list[dict[str, str]] = [
    {},
    {"averaging": "0.995"},
    {"layers x width": "4 x 256"},
    {"layers x width": "6 x 512"},
    {"optimizer": "AdamW, 1e-3"},
    {"optimizer": "AdamW, 1e-3", "weight decay": "6.0"},
    {"weight decay": "6.0"},
    {"weight decay": "6.0", "dropout": "0.2"},
    {"weight decay": "10.0", "dropout": "0.2"},
    {"dropout": "0.1"},
    {"dropout": "0.4"},
]

Levels = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("search", "final"))
    parser.add_argument("--folder", type=Path, required=True, help="texts and runs are kept here")
    parser.add_argument("--documents", type=Path, help="a JSON list; none: the bundled text of this Python")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--seeds", type=int, default=5, help="of final")
    parser.add_argument("--found", type=Path, help="what search wrote, for final")
    parser.add_argument("--also", nargs="*", default=[], help="overrides of all trainings")
    parser.add_argument("--out", type=Path, required=True, help="write the results here, as JSON")
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
        which = texts.partition("/")[0]
        train, held_out = self.texts[which]
        data = ["data=text", f"data.files=[{train}]", f"data.val_files=[{held_out}]"]
        if not (run / "summary.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            command = [sys.executable, "-m", "gptlab", "train", *data, *QUIET, *overrides, *self.also, f"run_dir={run}"]
            succeeded(fresh(command, {"OMP_NUM_THREADS": "1"} if self.jobs > 1 else None, self.folder))
            if which == "inner":  # gigabytes
                shutil.rmtree(run / "checkpoints", ignore_errors=True)
        said = json.loads((run / "summary.json").read_text())
        return {key: said.get(key) for key in (BITS, LOSS, "steps", "tokens", "seconds")} | {
            "run": str(run.relative_to(self.folder))
        }

    def together(self, runs: list[str]) -> float:
        """Return the bits per byte of several runs as one, on what they hold out."""
        paths = ",".join(str(self.folder / run) for run in runs)
        command = [sys.executable, "-m", "gptlab", "evaluate", f"run=[{paths}]", "json=true"]
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


def settings() -> dict[str, dict[str, Levels]]:
    """Return the levels of each training of the two stages, by its name."""
    alone = {"begin": BEGIN}
    for key, levels in FACTORS.items():
        for level in ALONE.get(key, levels):
            if level != BEGIN[key]:
                alone[f"{key} {level}"] = {**BEGIN, key: level}
    named = {", ".join(f"{key} {level}" for key, level in each.items()) or "best": each for each in TOGETHER}
    return {"alone": alone, "together": {name: {**BEST, **each} for name, each in named.items()}}


def search(bench: Bench, options: argparse.Namespace) -> None:
    """Choose by the second held-out part, and write what all trainings found."""
    default = {f"{n} steps": [f"budget.steps={n}", *DEFAULT_FAST[bench.device]] for n in DEFAULT_STEPS}
    works: list[dict[str, Any]] = [{"name": "default", "runs": bench.train_all(default, "inner/default")}]
    for name, stage in settings().items():
        asked = {each: overrides(levels, bench.device) for each, levels in stage.items()}
        found = bench.train_all(asked, f"inner/{name}")
        works.append({"name": name, "runs": {each: {"levels": stage[each], **run} for each, run in found.items()}})
    results = {"machine": bench.about, "repeats": 1, "workloads": works, "chosen": chosen(works)}
    write(options.out, results)
    print(json.dumps(results["chosen"]))


def chosen(works: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best levels of all trainings, and the steps of the default run with which it is best."""
    default, *stages = works
    steps, shortest = min(default["runs"].items(), key=lambda each: each[1][BITS])
    best = min((run for stage in stages for run in stage["runs"].values()), key=lambda run: run[BITS])
    short = {"default_steps": int(steps.split()[0]), f"default_{BITS}": shortest[BITS]}
    return {"levels": best["levels"], BITS: best[BITS], **short}


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
