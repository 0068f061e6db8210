"""Training beside its peers: the whole of `gptlab train`, our bare loop, Hugging Face's Trainer, LitGPT, nanoGPT.

    python benchmarks/train.py [--workload w1 w2] [--device cpu] [--repeats 3] [--nanogpt DIR] [--out results.json]

Every training is a fresh process; all begin with the same weights, see the same batches in the same order, and use the
same device and as many threads. A candidate whose losses are not those of the others is left out, and so is one that is
not installed. benchmarks/README.md says what is compared and how to read the table.
"""

import argparse
import csv
import dataclasses
import importlib.util
import json
import math
import os
import random
import shutil
import sys
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side_by_side import (
    DEVICES,
    Figure,
    LeftOut,
    described,
    device,
    fresh,
    interleaved,
    machine,
    succeeded,
    table,
    versus,
    write,
)

OPTIONS = {
    "fp32": [],
    "bf16": ["trainer.precision=bf16-true"],
    "bf16_compile": ["trainer.precision=bf16-true", "compile=true"],
}
KINDS = {"gptlab": "gptlab", "bare": "gptlab", "hf_trainer": "accelerate", "litgpt": "litgpt", "nanogpt": ""}
CANDIDATES = [kind if options == "fp32" else f"{kind}_{options}" for options in OPTIONS for kind in KINDS]
LIMITS = "limits"
ACCELERATOR = {"cpu": "cpu", "cuda": "gpu"}  # Lightning's word
OWN = "own_tokens_per_second"  # as gptlab logs it
TOLERANCE = 0.05  # nats, of the mean loss of the first steps: nanoGPT's GELU and LitGPT's positions are their own
TRAINERS = Path(__file__).with_name("trainers.py")


@dataclass(frozen=True)
class Workload:
    """A shape of model and batch; steps that are timed come after `warmup`. The model's vocabulary is `padded`."""

    name: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    n_vocab: int
    padded: int
    batch: int
    steps: int
    warmup: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.block_size

    @property
    def every(self) -> int:
        """Steps from one log of gptlab to the next: 10, as a user has it, unless there are too few."""
        return 10 if self.steps % 10 == 0 and self.warmup % 10 == 0 else 1


WORKLOADS = {
    "w1": Workload("w1", 4, 4, 128, 64, 65, 65, batch=12, steps=300, warmup=50),
    "w2": Workload("w2", 12, 12, 768, 256, 50257, 50304, batch=2, steps=10, warmup=2),
    "w3": Workload("w3", 12, 12, 768, 1024, 50257, 50304, batch=64, steps=50, warmup=10),  # for a GPU
}
BATCHES = {"w1": [12], "w2": [2, 8], "w3": [64]}
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "n_vocab", "padded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, help="w1 and w2 on a CPU, w3 on a GPU")
    parser.add_argument("--batch", nargs="+", type=int, help="sequences a step; w1: 12, w2: 2 and 8, w3: 64")
    parser.add_argument("--shape", nargs="+", default=[], metavar="KEY=N", help=f"another model: {', '.join(SHAPE)}")
    parser.add_argument("--steps", type=int, help="steps that are timed")
    parser.add_argument("--warmup", type=int, help="steps before them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--candidates", nargs="+", choices=CANDIDATES, metavar="NAME", help="all; w3: those in bf16 and compiled"
    )
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    options.device = device(options.device)
    results: dict[str, Any] = {"machine": machine(), "repeats": options.repeats, "workloads": []}
    print(described(results["machine"]))
    for name in options.workload or (["w1", "w2"] if options.device == "cpu" else ["w3"]):
        for batch in options.batch or BATCHES[name]:
            work = changed(WORKLOADS[name], options, batch)
            with tempfile.TemporaryDirectory() as folder:
                results["workloads"].append(Bench(work, Path(folder), options.device, options.nanogpt).run(options))
    if options.out:
        write(options.out, results)


def changed(work: Workload, options: argparse.Namespace, batch: int) -> Workload:
    """Return the settings as the options change them."""
    shape = {key: int(value) for key, _, value in (each.partition("=") for each in options.shape)}
    if unknown := shape.keys() - SHAPE:
        raise SystemExit(f"error: --shape={unknown.pop()}: no such size; choose of {', '.join(SHAPE)}")
    length = {key: value for key in ("steps", "warmup") if (value := getattr(options, key))}
    return dataclasses.replace(work, batch=batch, **shape, **length)


class Bench:
    """One workload: its files, and each candidate's training on them."""

    def __init__(self, work: Workload, folder: Path, device: str, nanogpt: Path | None) -> None:
        self.work, self.folder, self.device, self.nanogpt = work, folder, device, nanogpt
        self.reference: tuple[str, float] | None = None  # (candidate, its first loss)
        self.runs = 0
        write_tokens(work, folder)
        self.about = self.child("prepare", folder, *self.overrides("fp32"))

    def run(self, options: argparse.Namespace) -> dict[str, Any]:
        work = self.work
        print(
            f"\n{work.name}: {self.about['parameters']:,} parameters, batch {work.batch} x {work.block_size}, "
            f"{work.steps} steps after {work.warmup}, {options.repeats} rounds on {self.device}"
        )
        compiled = [name for name in CANDIDATES if name.endswith("compile")]
        candidates = options.candidates or (compiled if work.name == "w3" else CANDIDATES)
        found, left_out = interleaved([LIMITS, *candidates], options.repeats, self.measure)
        limits = found.pop(LIMITS)
        peak = {key: max(each["flops"][key] for each in limits) for key in limits[0]["flops"]}
        bandwidth = max(each["bandwidth"] for each in limits)
        rows = {name: self.row(name, rounds, peak) for name, rounds in found.items()}
        self.print(rows, peak, bandwidth)
        return {
            **dataclasses.asdict(work),
            **self.about,
            "device": self.device,
            "limit_flops": peak,
            "bandwidth": bandwidth,
            "candidates": rows,
            "left_out": left_out,
        }

    def row(self, name: str, rounds: list[dict[str, Any]], peak: dict[str, float]) -> dict[str, Any]:
        speed = Figure.of([each["tokens_per_second"] for each in rounds])
        limit = peak["fp32" if split(name)[1] == "fp32" else "bf16"]
        return {
            "tokens_per_second": speed,
            "of_limit": speed.median * self.about["flops_per_token"] / limit,
            "compile_seconds": rounds[0]["compile_seconds"],  # later rounds find what it has kept
            "peak_mb": max(each["peak_mb"] for each in rounds),
            "peak_gpu_mb": max(each["peak_gpu_mb"] for each in rounds) if self.device == "cuda" else None,
            "first_loss": rounds[0]["first_loss"],
            "last_loss": rounds[0]["last_loss"],
            OWN: [each[OWN] for each in rounds if OWN in each],
        }

    def print(self, rows: dict[str, dict[str, Any]], peak: dict[str, float], bandwidth: float) -> None:
        flops = ", ".join(f"{key} {value / 1e9:,.0f} GFLOP/s" for key, value in peak.items())
        print(f"best matrix product at these shapes: {flops}; memory is read at {bandwidth / 1e9:.1f} GB/s")
        memory = "peak_mb" if self.device == "cpu" else "peak_gpu_mb"
        peak_head = "peak MB" if self.device == "cpu" else "GPU MB"
        heads = ("", "tokens/s", "of", "gptlab/it", "of limit", peak_head, "compile s", "first loss", "last loss")
        cells = []
        for name, row in rows.items():
            speed = row["tokens_per_second"]
            ours = rows.get(name.replace(split(name)[0], "gptlab"))
            ratio = versus(ours["tokens_per_second"], speed) if ours and ours is not row else ""
            figures = f"{speed.median:,.0f}", f"{speed.low:,.0f} to {speed.high:,.0f}", ratio, f"{row['of_limit']:.1%}"
            more = f"{row[memory]:,.0f}", f"{row['compile_seconds']:.1f}"
            cells.append([name, *figures, *more, f"{row['first_loss']:.4f}", f"{row['last_loss']:.4f}"])
        table(heads, cells)
        best: dict[str, tuple[Figure, str]] = {}
        for name, row in rows.items():
            kind, speed = split(name)[0], row["tokens_per_second"]
            if kind not in best or speed.median > best[kind][0].median:
                best[kind] = speed, name
        if "gptlab" in best:
            for kind, (speed, name) in best.items():
                if kind != "gptlab":
                    print(f"{best['gptlab'][1]} / {name}, the fastest of each: {versus(best['gptlab'][0], speed)}")

    def measure(self, name: str) -> dict[str, Any]:
        """Measure one training of a candidate, or, for `limits`, the most that the machine can do."""
        if name == LIMITS:
            return self.child(LIMITS, self.folder)
        kind, options = split(name)
        if kind == "nanogpt" and self.nanogpt is None:
            raise LeftOut("give its checkout with --nanogpt DIR")
        if kind != "nanogpt" and importlib.util.find_spec(KINDS[kind]) is None:
            raise LeftOut(f"{KINDS[kind]} is not installed")
        env = {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "compiled" / name)}  # of others' work none is used
        # transformers' Trainer takes all GPUs that it sees
        env["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if self.device == "cuda" else ""
        found = self.gptlab(options, env) if kind == "gptlab" else self.peer(kind, options, env)
        self.reference = self.reference or (name, found["first_loss"])
        other, expected = self.reference
        if not abs(found["first_loss"] - expected) < TOLERANCE:
            raise LeftOut(f"its first loss is {found['first_loss']:.4f}, that of {other} {expected:.4f}")
        return found

    def peer(self, kind: str, options: str, env: dict[str, str]) -> dict[str, Any]:
        more = [self.nanogpt] if kind == "nanogpt" else []
        done = succeeded(fresh([sys.executable, TRAINERS, kind, options, self.folder, *more], env, self.folder))
        answer = json.loads(done.out.splitlines()[-1])
        at, losses, work = answer["seconds"], answer["losses"], self.work
        begin = at[work.warmup // answer["every"]]
        steady = (at[-1] - begin) / work.steps
        return {
            "tokens_per_second": work.tokens_per_step / steady,
            "compile_seconds": max(0.0, begin - at[0] - work.warmup * steady),
            "first_loss": mean(losses[: work.every]),
            "last_loss": mean(losses[-work.every :]),
            "peak_mb": done.peak_mb,
            "peak_gpu_mb": answer.get("peak_gpu_mb"),
        }

    def gptlab(self, options: str, env: dict[str, str]) -> dict[str, Any]:
        """Run the command as a user types it, with TensorBoard, metrics.csv and the bar; speed is by the clock of the
        logs.
        """
        self.runs += 1
        run, work = self.folder / f"run-{self.runs}", self.work
        command = [sys.executable, TRAINERS, "gptlab", *self.overrides(options), f"run_dir={run}"]
        done = succeeded(fresh(command, {**env, "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}, self.folder))
        shutil.rmtree(run / "checkpoints")  # gigabytes
        with (run / "metrics.csv").open(newline="") as file:
            logs = [row for row in csv.DictReader(file) if row["train/loss"]]
        clock = wall_times(run)
        steady = (clock[work.warmup + work.steps] - clock[work.warmup]) / work.steps
        said = [work.every * work.tokens_per_step / float(row["train/tokens_per_second"]) for row in logs]
        logged = work.warmup // work.every
        own = sum(said[logged:]) / work.steps
        if not 0.95 < own / steady < 1.05:
            print(f"  gptlab says {own:.4f} s a step, the clock of its logs {steady:.4f} s", file=sys.stderr)
        return {
            "tokens_per_second": work.tokens_per_step / steady,
            OWN: work.tokens_per_step / own,
            "compile_seconds": max(0.0, sum(said[:logged]) - work.warmup * steady),
            "first_loss": float(logs[0]["train/loss"]),
            "last_loss": float(logs[-1]["train/loss"]),
            "peak_mb": done.peak_mb,
            "peak_gpu_mb": json.loads(done.out.splitlines()[-1]).get("peak_gpu_mb"),
        }

    def overrides(self, options: str) -> list[str]:
        work, tokens = self.work, self.folder / "tokens.bin"
        shape = [f"model.{key}={getattr(work, key)}" for key in ("n_layer", "n_head", "n_embd", "block_size")]
        shape += [f"model.vocab_size={work.padded}"]
        data = [f"data.train=[{tokens}]", f"data.val=[{self.folder / 'val.bin'}]", f"data.batch_size={work.batch}"]
        tokenizer = ["tokenizer=json", f"tokenizer.file={self.folder / 'tokenizer.json'}"]
        length = [f"budget.steps={work.warmup + work.steps}", "trainer.val_every_n_steps=1000000", "sample_prompts=[]"]
        where = [f"trainer.accelerator={ACCELERATOR[self.device]}", "trainer.devices=1"]
        rates = ["optimizer=adamw", "optimizer.lr=6e-4", "schedule=constant", f"logger.every_n_steps={work.every}"]
        return ["model=small", *shape, "data=tokens", *data, *tokenizer, *length, *where, *rates, *OPTIONS[options]]

    def child(self, *arguments: object) -> dict[str, Any]:
        done = succeeded(fresh([sys.executable, TRAINERS, *arguments], cwd=self.folder))
        answer: dict[str, Any] = json.loads(done.out.splitlines()[-1])
        return answer


def split(name: str) -> tuple[str, str]:
    """Return the (kind, options) of a candidate's name."""
    kind = next(kind for kind in KINDS if name == kind or name.startswith(f"{kind}_"))
    return kind, name.removeprefix(kind).removeprefix("_") or "fp32"


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def wall_times(run: Path) -> dict[int, float]:
    """Return the time when each step was logged, from TensorBoard's events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {event.step: event.wall_time for event in events.Scalars("loss/train")}


def write_tokens(work: Workload, folder: Path) -> None:
    """Tokens from a fixed seed, the frequent ones as frequent as words are (Zipf), and a tokenizer that has them."""
    rng, ids = random.Random(0), range(work.n_vocab)
    weights = [1 / (i + 1) for i in ids]
    windows = (work.warmup + work.steps) * work.batch + 1
    for name, count in {"tokens.bin": windows * work.block_size, "val.bin": work.block_size + 1}.items():
        (folder / name).write_bytes(array("H", rng.choices(ids, weights, k=count)).tobytes())
    words = {"<|endoftext|>": 0, **{f"w{i}": i for i in ids if i}}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w1"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))


if __name__ == "__main__":
    main()
