"""Attention forward and backward: the fused kernel beside matrix products, plain and compiled, by shape and precision.

    python benchmarks/attention.py [--device cpu] [--seconds 0.5] [--shapes 5] [--out results.json]

`attend` in src/gptlab/model/attention.py takes the faster one; this is what its choice rests on.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import DEVICES, described, device, machine, table, write
from torch import Tensor
from torch.utils.benchmark import Timer

from gptlab.model.attention import _attend_by_products

SHAPES = [(12, 4, 64, 32), (8, 4, 128, 32), (8, 12, 256, 64), (4, 12, 512, 64), (2, 12, 1024, 64)]
ONE_QUERY = [(1, 12, 160, 64), (8, 12, 160, 64), (8, 12, 1024, 64)]
DTYPES = (torch.float32, torch.bfloat16)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend_by_products(q, k, v, None, 0.0)


def fused_of_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def products_of_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / 8).softmax(-1) @ v


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measuring, for each figure")
    parser.add_argument("--shapes", type=int, help="only so many of the shapes, the smallest first; all else")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    where, here = device(options.device), machine()
    print(f"{described(here)}; milliseconds on {where}, forward and backward")
    training, generating = [], []
    for shape in SHAPES[: options.shapes]:
        for dtype in DTYPES:
            qkv = [torch.randn(shape, dtype=dtype, device=where, requires_grad=True) for _ in range(3)]
            torch.compiler.reset()  # or it gives up after a few shapes
            ways = {"fused": fused, "products": products, "compiled": torch.compile(products, dynamic=False)}
            training.append(compare(shape, qkv, ways, ".sum().backward()", options.seconds))
    show(training, "B H T D")
    print("\nwhat generation asks at each token: one query; keys and values are read from a longer cache")
    for shape in ONE_QUERY[: options.shapes]:
        for dtype in DTYPES:
            k, v = (torch.randn(*shape[:2], 1024, shape[3], dtype=dtype, device=where)[:, :, : shape[2]] for _ in "kv")
            q = torch.randn(*shape[:2], 1, shape[3], dtype=dtype, device=where)
            ways = {"fused": fused_of_one, "products": products_of_one}
            generating.append(compare(shape, [q, k, v], ways, "", options.seconds))
    show(generating, "B H S D")
    if options.out:
        workloads = [{"name": "training", "rows": training}, {"name": "generation", "rows": generating}]
        write(options.out, {"machine": here, "device": where, "workloads": workloads})


def compare(
    shape: tuple[int, ...], qkv: list[Tensor], ways: dict[str, Callable[..., Tensor]], then: str, seconds: float
) -> dict[str, Any]:
    """Median milliseconds of each; the timer waits for a GPU."""
    row: dict[str, Any] = {"shape": shape, "precision": str(qkv[0].dtype)[6:]}
    for name, attend in ways.items():
        names, threads = {"attend": attend, "qkv": qkv}, torch.get_num_threads()
        timer = Timer(f"attend(*qkv){then}", globals=names, num_threads=threads)
        row[f"{name}_ms"] = timer.blocked_autorange(min_run_time=seconds).median * 1e3
    return row


def show(rows: list[dict[str, Any]], shape: str) -> None:
    """Beside each figure of the products, how many times as fast as the fused kernel they are."""
    times = [key for key in rows[0] if key.endswith("_ms")]
    cells = []
    for row in rows:
        figures = [f"{row[key]:.3f} ({row['fused_ms'] / row[key]:.2f})" for key in times[1:]]
        cells.append([" ".join(map(str, row["shape"])), row["precision"], f"{row['fused_ms']:.3f}", *figures])
    table((shape, "precision", *(key.removesuffix("_ms") for key in times)), cells)


if __name__ == "__main__":
    main()
