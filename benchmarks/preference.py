"""Preferences that are known: how often a tuned model's answers win against its base's, by the rule of the raters.

    python benchmarks/preference.py [--loss ipo] [--beta 0.1] [--lr 1e-4] [--epochs 3] [--adapter lora] [--out FILE]

A small model learns to answer questions about Python's library, and draws two answers to each of some of them. Raters
prefer one by a rule, and err in a tenth of the cases. The model is tuned on these pairs, and tuned model and base each
answer questions that neither has seen: the win rate is the share of them where the tuned model's answer is the better
one by the rule, a tie counts half, with a 95% interval of a bootstrap over questions.
"""

import argparse
import contextlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from side_by_side import described, machine, table, write

import gptlab
from gptlab.commands.sample import SampleConfig, sample
from gptlab.data.batches.examples import divide, held_out_records
from gptlab.data.text.instructions import Instructions
from gptlab.decoding.decoders import Sample

RULES: dict[str, Callable[[str], float]] = {
    "shorter": lambda answer: -len(answer),
    "says 'the' more often": lambda answer: answer.lower().split().count("the"),
}
ERRORS = 0.1  # of a rater
LONGEST = 48  # tokens of an answer
LEARN = ["data=instructions", "task=sft", "tokenizer.vocab_size=1024", "optimizer.lr=2e-3", "schedule.warmup_steps=20"]
QUIET = ["trainer.enable_progress_bar=false", "logger=csv", "trainer=cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=("dpo", "ipo"), default="dpo")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--adapter", help="lora, dora ...: instead of all weights")
    parser.add_argument("--steps", type=int, default=400, help="of the base")
    parser.add_argument("--questions", type=int, default=600, help="on which pairs are drawn")
    parser.add_argument("--held-out", type=int, default=250, help="questions on which answers are compared")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    about = machine()
    print(described(about))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        base = f"{folder}/base"
        train(*LEARN, f"budget.steps={options.steps}", f"run_dir={base}")
        asked = [[record["messages"][0]["content"] for record in part] for part in split(base)]
        questions, held_out = asked[0][: options.questions], asked[1][: options.held_out]
        first, second = (answers(base, questions, seed) for seed in (1, 2))
        theirs = answers(base, held_out, 3)
        for number, (rule, score) in enumerate(RULES.items()):
            pairs, run = Path(folder, f"pairs-{number}.jsonl"), f"{folder}/tuned-{number}"
            rated(pairs, questions, first, second, score)
            adapter = [f"adapter={options.adapter}"] if options.adapter else []
            tune = [f"task.loss={options.loss}", f"task.beta={options.beta}", f"optimizer.lr={options.lr}", *adapter]
            tune += [f"budget.epochs={options.epochs}", "data.batch_size=16", "trainer.val_every_n_steps=1000"]
            summary = train("experiment=dpo", f"init_from={base}", f"data.files=[{pairs}]", *tune, f"run_dir={run}")
            ours = answers(run, held_out, 4)
            found[rule] = {**won([score(a) for a in ours], [score(b) for b in theirs]), **figures(summary)}
    heads = ("raters prefer what is", "win rate", "95% interval", "accuracy", "KL", "old loss")
    cells = [
        [
            rule,
            f"{r['win_rate']:.1%}",
            f"{r['low']:.1%} to {r['high']:.1%}",
            f"{r['val_accuracy']:.1%}",
            f"{r['val_reference_kl']:.2f}",
            f"{r['first_old_loss']:.3f} to {r['val_old_loss']:.3f}",
        ]
        for rule, r in found.items()
    ]
    table(heads, cells)
    if options.out:
        work = {
            "name": "preference",
            "settings": {k: v for k, v in vars(options).items() if k != "out"},
            "rules": found,
        }
        write(options.out, {"machine": about, "repeats": 1, "workloads": [work]})


def train(*overrides: str) -> dict[str, float]:
    """Train a run in this process without a word; returns its summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        summary = gptlab.train(gptlab.compose("train", [*overrides, *QUIET]))
    assert summary is not None
    return summary


def split(base: str) -> tuple[list[dict], list[dict]]:
    """Return the conversations that the base was trained on, and those that it holds out."""
    training, _ = divide(list(Instructions().examples()), Instructions().val_fraction)
    return training, held_out_records(Path(base, "held_out"))[0]


def answers(run: str, questions: list[str], seed: int) -> list[str]:
    """Draw an answer to each question, from the model's own distribution."""
    texts: list[str] = []
    with contextlib.redirect_stdout(io.StringIO()):
        for start in range(0, len(questions), 50):
            asked = questions[start : start + 50]
            config = SampleConfig(Sample(), run, prompts=asked, chat=True, max_new_tokens=LONGEST, seed=seed)
            texts += [each["text"] for each in sample(config)["samples"]]
    return texts


def rated(path: Path, questions: list[str], first: list[str], second: list[str], score: Callable[[str], float]) -> None:
    """Write the pairs that the raters tell apart, with the answer that they prefer as the chosen one."""
    draw, lines = random.Random(0), []
    for prompt, a, b in zip(questions, first, second, strict=True):
        if score(a) != score(b) and a.strip() and b.strip():
            chosen, rejected = (a, b) if (score(a) > score(b)) != (draw.random() < ERRORS) else (b, a)
            lines.append(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
    path.write_text("".join(lines))


def won(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return the share of questions that are won, and its interval."""
    each = np.array([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)])
    drawn = each[np.random.default_rng(0).integers(0, len(each), (10_000, len(each)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"win_rate": float(each.mean()), "low": float(low), "high": float(high), "questions": len(each)}


def figures(summary: dict[str, float]) -> dict[str, float]:
    """Return what a tuned run's log has come to, and the old loss that it began with."""
    import csv

    with Path(str(summary["run_dir"]), "metrics.csv").open() as file:
        first = next(float(row["val/old/loss"]) for row in csv.DictReader(file) if row["val/old/loss"])
    keys = ("val_accuracy", "val_reward_margin", "val_reference_kl", "val_old_loss")
    return {"first_old_loss": first, **{key: summary[key] for key in keys}}


if __name__ == "__main__":
    main()
