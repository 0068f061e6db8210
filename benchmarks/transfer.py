"""Find the best learning rate over widths and depths, by parametrization, and check the sizes of activations.

    python benchmarks/transfer.py [--quick] [--steps 200] [--seeds 1] [--ways standard mup ...] [--out results.json]
    python benchmarks/transfer.py --read results.json --picture transfer.png        # draws what was measured

Models learn the bundled text by bytes, in a bare loop of gptlab's GPT and optimizers: the rate rises over a tenth of
the steps and falls to 0, gradients are clipped as in training, and what counts is the loss on held-out text after the
last step. The base is 256 wide and has 2 layers. Rates are tried on a grid, from the best one of the size before on
until the best lies within; the best of all is the lowest point of a parabola in log rate through the points within a
factor of two of it. How far it moves is the largest of these over the smallest.

The check of coordinates takes a few steps of the same batch at each width: how large activations are, and how far the
steps have moved them (Yang et al. 2022, appendix D.1). The exponent is the slope over widths in log-log; it is 0 where
sizes stay.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import described, machine, table, write
from torch import Tensor

from gptlab.data.text.bundled import english
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW
from gptlab.optim.schedules import Linear
from gptlab.tasks.cross_entropy import cross_entropy

HEAD, BLOCK, BATCH, BYTES = 32, 32, 8, 256  # width of a head, context, windows of a step, vocabulary
WIDTHS, DEPTHS = (64, 128, 256, 512), (2, 4, 8, 16)
BASE_WIDTH, BASE_DEPTH = 256, 2
HELD_OUT = 256  # windows
GRID = 2**0.5  # from one rate to the next
FIRST = -20  # the power of it that is tried first
SHAPE = {"norm": "rms", "qk_norm": True, "positions": "rope", "feed_forward": "relu2", "bias": False, "tied": False}


@dataclass(frozen=True)
class Way:
    """A way to train models of all sizes by one rate."""

    parametrization: str
    hyperball: bool = False

    def model(self, width: int, depth: int) -> GPT:
        shape = {"n_layer": depth, "n_embd": width, "n_head": width // HEAD, "block_size": BLOCK, "vocab_size": BYTES}
        base = {"base_width": BASE_WIDTH, "base_depth": BASE_DEPTH, "parametrization": self.parametrization}
        return GPT(GPTConfig(**SHAPE, **shape, **base))

    def optimizer(self, gpt: GPT, lr: float) -> torch.optim.Optimizer:
        return AdamW(lr=lr, hyperball=self.hyperball).build(gpt)

    def same_as(self, width: int, depth: int) -> "Way":
        """Return the simplest way that trains a model of a size just as this one does."""
        kind = self.parametrization
        if kind == "completep" and depth == BASE_DEPTH:
            kind = "mup"
        if kind == "mup" and width == BASE_WIDTH:
            kind = "standard"
        return Way(kind, self.hyperball)


WAYS = {
    "standard": Way("standard"),
    "completep": Way("completep"),
    "mup": Way("mup"),
    "hyperball": Way("standard", hyperball=True),
}


@dataclass(frozen=True)
class Text:
    """The bundled text as bytes: what is learned, and windows that are held out."""

    train: Tensor  # (N,)
    held_out: Tensor  # (HELD_OUT, BLOCK + 1)

    @classmethod
    def bundled(cls) -> "Text":
        ids = torch.frombuffer(bytearray("\n".join(english()).encode()), dtype=torch.uint8).long()
        n = HELD_OUT * (BLOCK + 1) * 16
        windows = ids[-n:].view(-1, BLOCK + 1)[::16]
        return cls(ids[:-n], windows)

    def batches(self, steps: int, seed: int) -> Iterator[Tensor]:
        """Yield windows (BATCH, BLOCK + 1), the same for all models of a seed."""
        draw = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            starts = torch.randint(len(self.train) - BLOCK - 1, (BATCH,), generator=draw).tolist()
            yield torch.stack([self.train[i : i + BLOCK + 1] for i in starts])


def loss_of(gpt: GPT, windows: Tensor) -> Tensor:
    """Return the mean loss of windows, in nats per byte."""
    return cross_entropy(gpt(windows[:, :-1]), windows[:, 1:])


def trained(way: Way, text: Text, width: int, depth: int, lr: float, steps: int, seed: int) -> float:
    """Return the held-out loss of a model after its training, in nats per byte."""
    torch.manual_seed(seed)
    gpt = way.model(width, depth)
    optimizer = way.optimizer(gpt, lr)
    schedule = Linear(warmup_share=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # keeps the groups' own rates as initial_lr
    for step, windows in enumerate(text.batches(steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule(step, steps)
        optimizer.zero_grad()
        loss_of(gpt, windows).backward()
        torch.nn.utils.clip_grad_norm_(gpt.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found = statistics.fmean(loss_of(gpt, windows).item() for windows in text.held_out.split(32))
    return found if math.isfinite(found) else math.inf


Losses = dict[float, float]  # by rate


def lowest(losses: Losses) -> float | None:
    """Return the rate at the lowest point of a parabola in log rate, through the points within a factor of 2 of the
    best; None where the best is at an end of the grid, or the parabola has no lowest point there."""
    best = min(losses, key=lambda lr: losses[lr])
    near = sorted(lr for lr in losses if abs(math.log(lr / best)) < 1.01 * math.log(2))
    if best in (near[0], near[-1]) or not all(math.isfinite(losses[lr]) for lr in near):
        return None
    a, b, _ = np.polyfit([math.log(lr / best) for lr in near], [losses[lr] for lr in near], 2)
    vertex = best * math.exp(-b / (2 * a)) if a > 0 else 0.0
    return vertex if near[0] < vertex < near[-1] else None


def searched(way: Way, text: Text, size: tuple[int, int], start: int, steps: int, seed: int) -> Losses:
    """Return losses by rate, of two steps of the grid to both sides of the best; the power `start` is tried first."""
    found: dict[int, float] = {}
    best = start
    while missing := [i for i in (best, best - 1, best + 1, best - 2, best + 2) if i not in found]:
        i = missing[0]
        found[i] = trained(way, text, *size, GRID**i, steps, seed)
        best = min(found, key=lambda i: found[i])
        print(f"  {size[0]} x {size[1]}: {GRID**i:.3g} {found[i]:.4f}", flush=True)
    return {GRID**i: found[i] for i in sorted(found)}


def coordinates(way: Way, widths: Sequence[int], text: Text, lr: float, steps: int, seed: int) -> list[dict[str, Any]]:
    """Return for each width the sizes of activations after some steps on one batch, and how far these moved them.

    Both are roots of mean squares, of the attention and the feed-forward of the last block, the last hidden states
    and the logits.
    """
    (windows,) = text.batches(1, seed)
    found = []
    for width in widths:
        torch.manual_seed(seed)
        gpt = way.model(width, DEPTHS[0])
        optimizer = way.optimizer(gpt, lr)
        before = activations(gpt, windows)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(gpt, windows).backward()
            optimizer.step()
        after = activations(gpt, windows)
        sizes = {name: _rms(x) for name, x in after.items()}
        moved = {name: _rms(x - before[name]) for name, x in after.items()}
        found.append({"width": width, "sizes": sizes, "moved": moved})
    return found


@torch.no_grad()
def activations(gpt: GPT, windows: Tensor) -> dict[str, Tensor]:
    """Return what the last block's parts, the blocks together and the head put out."""
    found: dict[str, Tensor] = {}
    block: Any = gpt.blocks[-1]
    parts = {"attention": block.attn, "feed-forward": block.mlp, "residual": block}
    hooks = [
        part.register_forward_hook(lambda _, ins, out, name=name: found.__setitem__(name, out.clone()))
        for name, part in parts.items()
    ]
    found["logits"] = gpt(windows[:, :-1])
    for hook in hooks:
        hook.remove()
    return found


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def exponents(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Return the slope over widths in log-log of each activation."""
    x = np.log([row["width"] for row in rows])
    return {name: float(np.polyfit(x, np.log([row[key][name] for row in rows]), 1)[0]) for name in rows[0][key]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes of each axis, 20 steps")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="write the results here, as JSON, after each size")
    parser.add_argument("--more", type=Path, help="results of the same settings, whose seeds are not measured again")
    parser.add_argument("--read", type=Path, help="results to show or to draw, instead of measuring")
    parser.add_argument("--picture", type=Path, help="draw the results here, as PNG")
    options = parser.parse_args()
    results = json.loads(options.read.read_text()) if options.read else measured(options)
    show(results)
    if options.picture:
        from transfer_picture import draw  # matplotlib is not needed otherwise

        options.picture.write_bytes(draw(results))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return all results, and write them after each size."""
    count, steps = (2, 20) if options.quick else (len(WIDTHS), options.steps)
    axes = {"width": [(w, DEPTHS[0]) for w in WIDTHS[:count]], "depth": [(WIDTHS[0], d) for d in DEPTHS[:count]]}
    text, began = Text.bundled(), time.process_time()
    settings = {"steps": steps, "batch": BATCH, "context": BLOCK, "base_width": BASE_WIDTH, **SHAPE}
    results: dict[str, Any] = {"coordinates": {}, "axes": {axis: {} for axis in axes}, "cpu_minutes": 0}
    done: dict[tuple[Way, tuple[int, int], int], Losses] = {}
    if options.more:
        results = json.loads(options.more.read_text())
        if results["settings"] != settings:
            raise SystemExit(f"error: --more={options.more}: has other settings; give results of these")
        done = known(results)
    before = results["cpu_minutes"]
    results |= {"machine": machine(), "settings": settings}
    for name in options.ways:
        rows = coordinates(WAYS[name], WIDTHS[: 2 if options.quick else None], text, lr=1e-3, steps=5, seed=0)
        slopes = {key: exponents(rows, key) for key in ("sizes", "moved")}
        results["coordinates"][name] = {"rows": rows, "exponents": slopes}
    for seed, name, axis in itertools.product(range(options.seeds), options.ways, axes):
        print(f"{name}, over {axis}, seed {seed}", flush=True)
        start = FIRST
        for size in axes[axis]:
            key = WAYS[name].same_as(*size), size, seed
            if key not in done:
                done[key] = searched(key[0], text, size, start, steps, seed)
            start = round(math.log(min(done[key], key=lambda lr: done[key][lr]), GRID))
            results["axes"][axis][name] = [
                summary([done[k] for s in range(options.seeds) if (k := (way, each, s)) in done], each)
                for each in axes[axis]
                if ((way := WAYS[name].same_as(*each)), each, 0) in done
            ]
            results["cpu_minutes"] = round(before + (time.process_time() - began) / 60, 1)
            if options.out:
                write(options.out, results)
    return results


def known(results: dict[str, Any]) -> dict[tuple[Way, tuple[int, int], int], Losses]:
    """Return the losses by rate that results hold, by way, size and seed."""
    found: dict[tuple[Way, tuple[int, int], int], Losses] = {}
    for ways in results["axes"].values():
        for name, rows in ways.items():
            for row in rows:
                size = row["width"], row["depth"]
                for run in row["runs"]:
                    key = WAYS[name].same_as(*size), size, run["seed"]
                    found.setdefault(key, {})[run["lr"]] = run["loss"]
    return found


def summary(seeds: Sequence[Losses], size: tuple[int, int]) -> dict[str, Any]:
    """Return what is kept of a size: its losses, and the best rate of each seed and, as the mean of logs, of all."""
    best = [lowest(losses) for losses in seeds]
    known = [each for each in best if each is not None]
    runs = [{"lr": lr, "seed": seed, "loss": loss} for seed, each in enumerate(seeds) for lr, loss in each.items()]
    mean = statistics.geometric_mean(known) if len(known) == len(best) else None
    return {"width": size[0], "depth": size[1], "best": mean, "best_by_seed": best, "runs": runs}


def moves(rows: list[dict[str, Any]]) -> float | None:
    """Return by which factor the best rate moves over sizes; None where that of a size is not known."""
    best = [row["best"] for row in rows]
    return None if None in best else max(best) / min(best)


def show(results: dict[str, Any]) -> None:
    print(described(results["machine"]))
    for key, what in (("sizes", "how large activations are"), ("moved", "how far steps move them")):
        found = {name: each["exponents"][key] for name, each in results["coordinates"].items()}
        names = list(next(iter(found.values())))
        print(f"\n{what}: exponent of the width")
        table(("", *names), [[name, *(f"{row[each]:+.2f}" for each in names)] for name, row in found.items()])
    for axis, ways in results["axes"].items():
        sizes = [str(row[axis]) for row in next(iter(ways.values()))]
        cells = []
        for name, rows in ((name, rows) for name, rows in ways.items() if len(rows) == len(sizes)):
            best = ["?" if row["best"] is None else f"{row['best']:.2e}" for row in rows]
            factor, least = moves(rows), min(run["loss"] for run in rows[-1]["runs"])
            cells.append([name, *best, f"{factor:.2f}" if factor else "?", f"{least:.3f}"])
        print(f"\nbest rate over {axis}")
        table(("", *sizes, "moves", "least loss of the last"), cells)
    print(f"\n{results.get('cpu_minutes', 0)} minutes of a processor core")


if __name__ == "__main__":
    main()
