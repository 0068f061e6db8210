"""Full tuning beside adapters on messages that may be spam, each with its own learning rate, over several seeds.

    python benchmarks/classify.py [--seeds 3] [--base RUN] [--out results.json] [--picture docs/spam.png]

A small model is trained on the bundled text, or taken from --base. Each way to tune it is tried with every rate of
RATES on 300 generated messages, and 400 others choose the rate by their loss. The seeds then differ in the order of the
messages and in the first weights of the head; their scores, and the comparisons, are of 1,200 more messages.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import described, machine, table, write

import gptlab
from gptlab.commands.compare import compare
from gptlab.data.text.messages import about_anything

WAYS = {
    "full": [],
    "lora": ["adapter=lora"],
    "last_n": ["adapter=last_n"],
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
SPLIT = {"train": (0, 300), "tune": (300, 700), "test": (1200, 2400)}
METRICS = ("accuracy", "macro_f1", "loss", "calibration_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", type=Path, help="a run to tune; none: the default one is trained first")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--picture", type=Path, help="draw the scores here, as PNG")
    options = parser.parse_args()
    about = machine()
    print(f"{described(about)}; {options.seeds} seeds")
    given = options.base and options.base.absolute()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        base = given or Path("base").absolute()
        if not given:
            train([f"run_dir={base}"])
        messages = about_anything()
        for part, (first, last) in SPLIT.items():
            lines = [json.dumps(each) + "\n" for each in messages[first:last]]
            Path(f"{part}.jsonl").write_text("".join(lines))
        found = {way: measured(way, base, options.seeds) for way in WAYS}
        gaps = {way: against_full(way, options.seeds) for way in WAYS if way != "full"}
    rows = [
        [way, f"{row['lr']:g}", f"{row['trained']:,}", *map(cell, row["scores"].values())] for way, row in found.items()
    ]
    table(("", "rate", "trained", *METRICS), rows)
    for way, gap in gaps.items():
        interval = f"95% interval {gap['low']:+.2%} to {gap['high']:+.2%}"
        print(f"accuracy of {way} less that of full: {gap['value']:+.2%}, {interval}")
    if options.picture:
        from adapting_pictures import draw_spam  # matplotlib is not needed otherwise

        draw_spam(options.picture, found)
    if options.out:
        work = {"name": "spam", "candidates": found, "less_full": gaps}
        write(options.out, {"machine": about, "repeats": options.seeds, "workloads": [work]})


def train(overrides: list[str]) -> dict[str, Any]:
    """Train a run and return its summary; what it says is dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        summary = gptlab.train(gptlab.compose("train", ["trainer.enable_progress_bar=false", *overrides]))
    assert summary is not None
    return summary


def tuned(way: str, base: Path, lr: float, seed: int, run: str) -> dict[str, Any]:
    """Tune the base in one way, and return the summary of the run."""
    ask = ["experiment=spam", "data.files=[train.jsonl]", "data.val_files=[tune.jsonl]", "sample_prompts=[]"]
    ask += ["trainer.val_every_n_steps=10000"]  # at the end alone
    ask += [*WAYS[way], f"optimizer.lr={lr}", f"seed={seed}", f"run_dir={run}"]
    return train([*ask, f"init_from={base}"])


def measured(way: str, base: Path, seeds: int) -> dict[str, Any]:
    """Choose the rate of a way to tune, and return its scores over the seeds, each of the test messages."""
    costs = {lr: tuned(way, base, lr, 1337, f"{way}/{lr:g}")["val_loss"] for lr in RATES}
    lr = min(costs, key=lambda rate: costs[rate])
    print(f"{way}: " + ", ".join(f"{rate:g} {cost:.4f}" for rate, cost in costs.items()), flush=True)
    test = gptlab.compose("evaluate", ["data=labelled", "data.files=[test.jsonl]", "data.val_fraction=1"]).data
    scores: dict[str, list[float]] = {name: [] for name in METRICS}
    for seed in range(seeds):
        summary = tuned(way, base, lr, seed, f"{way}/seed-{seed}")
        result = gptlab.evaluate(f"{way}/seed-{seed}", test)
        for name in METRICS:
            scores[name].append(result[name])
    trained = summary.get("trained_parameters", summary["parameters"])
    tried = {f"{rate:g}": cost for rate, cost in costs.items()}
    return {"lr": lr, "tuning": tried, "trained": trained, "scores": scores}


def against_full(way: str, seeds: int) -> dict[str, float]:
    """Compare a way to tune with full tuning on the test messages: accuracy, over all seeds."""
    sides = {side: [f"{name}/seed-{seed}" for seed in range(seeds)] for side, name in (("a", "full"), ("b", way))}
    ask = [f"{side}=[{','.join(runs)}]" for side, runs in sides.items()]
    ask += ["data=labelled", "data.files=[test.jsonl]", "data.val_fraction=1", "resamples=2000", "out=gap.json"]
    with contextlib.redirect_stdout(io.StringIO()):
        found: dict[str, float] = compare(gptlab.compose("compare", ask))["difference"]
    return found


def cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) / len(values) ** 0.5:.4f}"


if __name__ == "__main__":
    main()
