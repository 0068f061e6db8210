"""Measure how the time and memory of a training step grow with context, width, depth, vocabulary, batch and devices.

    python benchmarks/growth.py [--quick] [--repeats 3] [--axes context width ...] [--out results.json]

Each point is a fresh process on the CPU: gptlab's GPT, Loss and fused AdamW in fp32. One size grows, the others
stay; the exponent found is the slope of a least-squares line through the points in log-log. Expected is the slope of a
line through the same points of a formula, and what it tends to where the fastest growing part is all:

    time    6 N + 12 L C T FLOPs a token, with N = 12 L C^2 + V C
    memory  16 N' bytes for weights, gradients and Adam's moments (N' = N and the positions); for each token 4 bytes of
            17 L C activations and 3 V numbers about the logits: themselves, their softmax, its gradient
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import (
    Figure,
    described,
    fresh,
    interleaved,
    machine,
    megabytes,
    separate_pages,
    succeeded,
    table,
    write,
)

from gptlab.model.config import GPTConfig
from gptlab.planning.flops import flops_per_token

HEAD = 32  # width of a head: wider models have more
CHUNK = 1024  # positions, as in gptlab.tasks.cross_entropy


@dataclass(frozen=True)
class Point:
    """One training step's sizes; `batch` is of all devices together."""

    block_size: int = 64
    n_embd: int = 128
    n_layer: int = 2
    vocab_size: int = 256
    batch: int = 16
    devices: int = 1
    threads: int = 0  # of each device; 0: all that there are
    chunked: bool = False
    optimized: bool = True  # False: only one forward and backward pass, for its memory

    @property
    def model(self) -> GPTConfig:
        shape = {key: getattr(self, key) for key in ("block_size", "n_embd", "n_layer", "vocab_size")}
        return GPTConfig(**shape, n_head=max(1, self.n_embd // HEAD))

    @property
    def flops(self) -> float:
        """Return the floating-point operations of a step on each device."""
        return flops_per_token(self.model) * self.block_size * self.batch / self.devices

    @property
    def bytes(self) -> float:
        width, tokens = self.n_embd, self.block_size * self.batch / self.devices
        weights = 12 * self.n_layer * width**2 + (self.vocab_size + self.block_size) * width
        return 16 * weights + 4 * tokens * (17 * self.n_layer * width + 3 * self.vocab_size)


@dataclass(frozen=True)
class Axis:
    """A size that grows; `time` and `memory` are the exponents that theirs tend to."""

    key: str
    values: tuple[int, ...]
    time: float
    memory: float
    why: str
    others: dict[str, int] = field(default_factory=dict)

    def points(self, quick: bool) -> dict[int, Point]:
        values = self.values[:2] if quick else self.values
        return {value: Point(**self.others | {self.key: value}) for value in values}


AXES = {
    "context": Axis(
        *("block_size", (512, 1024, 2048, 4096), 2, 1),
        "attention's 12 L C T FLOPs a token, of T tokens; the fused kernel skips the masked half, which the formula"
        " counts, and never keeps T x T scores",
        {"batch": 2},
    ),
    "width": Axis(
        *("n_embd", (64, 128, 256, 512), 2, 2),
        "12 L C^2 weights, read by each token; activations grow with C only",
    ),
    "depth": Axis("n_layer", (2, 4, 8, 16), 1, 1, "each layer is like the others"),
    "vocabulary": Axis(
        *("vocab_size", (4096, 8192, 16384, 32768), 1, 1),
        "the head's V C weights, and V logits a token",
        {"n_layer": 1, "n_embd": 64, "batch": 8},
    ),
    "batch": Axis("batch", (8, 16, 32, 64), 1, 1, "each sequence is like the others; weights do not grow"),
    "devices": Axis(
        *("devices", (1, 2, 4), -1, -1),
        "a share of the batch each (one thread each, gloo); adding up gradients comes on top, and weights are whole on"
        " each; more processes than cores take turns, and save memory alone",
        {"threads": 1, "batch": 32},
    ),
}
LOGITS = {"n_layer": 1, "n_embd": 16, "block_size": 1024, "optimized": False}
SMALL = Point(block_size=32, n_embd=32, n_layer=1, batch=2)  # before anything is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first two points of each axis, once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--axes", nargs="+", choices=[*AXES, "logits"], default=[*AXES, "logits"])
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        run(Point(**json.loads(options.point)), 4 if options.quick else 8)
        return
    repeats = 1 if options.quick else options.repeats
    results: dict[str, Any] = {"machine": machine(), "repeats": repeats, "workloads": []}
    print(f"{described(results['machine'])}; {repeats} rounds of fresh processes")
    axes = {name: axis for name, axis in AXES.items() if name in options.axes}
    results["workloads"] += [grown(name, axis, options.quick, repeats) for name, axis in axes.items()]
    if axes:
        show(results["workloads"])
    if "logits" in options.axes:
        results["workloads"] += logits(options.quick)
    if options.out:
        write(options.out, results)


def grown(name: str, axis: Axis, quick: bool, repeats: int) -> dict[str, Any]:
    """Return all points of an axis, and the slopes through them."""
    points = axis.points(quick)
    names = {f"{name} {value}": point for value, point in points.items()}
    rounds, left_out = interleaved(list(names), repeats, lambda each: child(names[each], quick))
    sizes = [value for value in points if f"{name} {value}" in rounds]
    each = [rounds[f"{name} {size}"] for size in sizes]
    tend = {"seconds": axis.time, "peak_mb": axis.memory}
    formula = {key: [getattr(points[s], of) for s in sizes] for key, of in (("seconds", "flops"), ("peak_mb", "bytes"))}
    found = {}
    for key, limit in tend.items():
        slopes = Figure.of([slope(sizes, [rows[i][key] for rows in each]) for i in range(repeats)])
        measured = [Figure.of([row[key] for row in rows]) for rows in each]
        expected = slope(sizes, formula[key])
        found[key] = {"measured": measured, "exponent": slopes, "expected": expected, "tends_to": limit}
    fixed = {key: value for key, value in dataclasses.asdict(points[sizes[0]]).items() if key != axis.key}
    about = {"name": name, "key": axis.key, "sizes": sizes, "fixed": fixed, "why": axis.why}
    return {**about, **found, "left_out": left_out}


def slope(x: list[int], y: list[float]) -> float:
    """Return the slope of the least-squares line through (log x, log y); nan if a point of two was left out."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else math.nan


def show(workloads: list[dict[str, Any]]) -> None:
    for key, unit, scale in (("seconds", "ms a step", 1e3), ("peak_mb", "peak MB", 1.0)):
        rows = []
        for work in workloads:
            sizes, found, exponent = work["sizes"], work[key], work[key]["exponent"]
            first, last = (found["measured"][i].median * scale for i in (0, -1))
            grown_to = [f"{sizes[0]:,} to {sizes[-1]:,}", f"{first:,.1f} to {last:,.1f}"]
            slopes = [f"{exponent.median:.2f}", f"{exponent.low:.2f} to {exponent.high:.2f}"]
            rows.append([work["name"], *grown_to, *slopes, f"{found['expected']:.2f}", f"{found['tends_to']}"])
        print()
        table(("", "from, to", unit, "exponent", "of", "expected", "tends to"), rows)
    print()
    for work in workloads:
        print(f"{work['name']}: {work['why']}")


def logits(quick: bool) -> list[dict[str, Any]]:
    """Memory of one pass with all logits at once and in chunks: as the vocabulary grows, and as the batch does."""
    vocabulary = [Point(**LOGITS, vocab_size=size, batch=4) for size in (4096, 8192, 16384, 32768)]
    batch = [Point(**LOGITS, vocab_size=8192, batch=size) for size in (2, 4, 8, 16)]
    peak_mb = functools.cache(lambda point: child(point, quick)["peak_mb"])  # one point is in both
    found = []
    for key, points in {"vocab_size": vocabulary, "batch": batch}.items():
        points = points[:2] if quick else points
        sizes, rows = [getattr(point, key) for point in points], []
        for point in points:
            full, chunked = (peak_mb(dataclasses.replace(point, chunked=way)) for way in (False, True))
            rows.append({"full": full, "chunked": chunked, "chunk": 4 * CHUNK * point.vocab_size / 2**20})
        exponents = {kind: slope(sizes, [row[kind] for row in rows]) for kind in ("full", "chunked")}
        fixed = {name: value for name, value in dataclasses.asdict(points[0]).items() if name not in (key, "chunked")}
        about = {"name": f"logits, {key}", "key": key, "sizes": sizes, "fixed": fixed}
        found.append({**about, "peak_mb": rows, "exponent": exponents})
        cells = [[f"{n:,}", *(f"{row[kind]:,.0f}" for kind in row)] for n, row in zip(sizes, rows, strict=True)]
        print()
        table((key, "loss=full MB", "loss=chunked MB", "logits of a chunk MB"), cells)
        print(f"exponents: full {exponents['full']:.2f}, chunked {exponents['chunked']:.2f}")
    return found


def child(point: Point, quick: bool) -> dict[str, Any]:
    """Return the measurements of a point, made in separate processes."""
    more = ["--quick"] if quick else []
    env = {"OMP_NUM_THREADS": str(point.threads)} if point.threads else {}
    command = [sys.executable, __file__, "--point", json.dumps(dataclasses.asdict(point)), *more]
    done = succeeded(fresh(command, env))
    answer: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return answer


def run(point: Point, steps: int) -> None:
    """In the child: measure the point here, or in one process for each of its devices."""
    if point.devices == 1:
        measure(0, point, steps, None)
        return
    import torch.multiprocessing

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # a machine's name need not lead back to it
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"  # no port, which another process could take first
        # forks: this process has imported torch, and done nothing with it
        torch.multiprocessing.start_processes(measure, (point, steps, store), point.devices, start_method="fork")


def measure(rank: int, point: Point, steps: int, store: str | None) -> None:
    """Print the peak of memory above what the libraries take, over two steps whose large tensors get pages of their
    own; then the median seconds of a step, with pages kept as `gptlab train` does. Rank 0 prints."""
    import torch
    from torch import distributed

    from gptlab.training.memory import keep_freed_pages

    if store:
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=point.devices)
    separate_pages()
    torch.manual_seed(0)
    training(SMALL, 1)  # threads and kernels are there then
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = megabytes("self", "VmRSS")
    training(point, 2 if point.optimized else 1)
    found = {"peak_mb": megabytes("self", "VmHWM") - before}
    if point.optimized:
        keep_freed_pages()
        found["seconds"] = statistics.median(training(point, steps)[2:])
    if rank == 0:
        print(json.dumps(found), flush=True)
    if store:
        distributed.destroy_process_group()


def training(point: Point, steps: int) -> list[float]:
    """Seconds of each step."""
    import torch
    from torch import distributed

    from gptlab.model.gpt import GPT
    from gptlab.optim.optimizers import AdamW
    from gptlab.tasks.base import Reading
    from gptlab.tasks.causal_lm import CausalLM
    from gptlab.training.loss import Loss

    gpt = GPT(point.model)
    loss = Loss(CausalLM(), gpt, Reading(chunked=point.chunked))
    optimizer, params = AdamW().build(gpt), list(gpt.parameters())
    x, y = torch.randint(point.vocab_size, (2, point.batch // point.devices, point.block_size))
    times: list[float] = []

    def step() -> None:
        loss(x, y).mean().backward()
        if not point.optimized:
            return
        if distributed.is_initialized():
            together = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
            distributed.all_reduce(together)
            for p, part in zip(params, (together / point.devices).split([p.numel() for p in params]), strict=True):
                p.grad = part.view_as(p)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
