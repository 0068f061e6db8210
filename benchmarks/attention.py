"""Attention forward and backward: the fused kernel beside plain matrix products, at several shapes and precisions.

    python benchmarks/attention.py

`attend` in src/gptlab/model/attention.py takes the faster one; this is what its choice rests on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from gptlab.model.attention import _attend_by_products

SHAPES = [(12, 4, 64, 32), (8, 4, 128, 32), (8, 12, 256, 64), (4, 12, 512, 64), (2, 12, 1024, 64)]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend_by_products(q, k, v, None, 0.0)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; milliseconds, forward and backward")
    print(f"{'B H T D':>16} {'precision':>10} {'fused':>8} {'products':>9} {'fused/products':>15}")
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            qkv = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
            times = []
            for attend in (fused, products):
                timer = Timer("attend(*qkv).sum().backward()", globals={"attend": attend, "qkv": qkv},
                              num_threads=torch.get_num_threads())  # fmt: skip
                times.append(timer.blocked_autorange(min_run_time=0.5).median * 1e3)
            label = " ".join(map(str, shape))
            print(f"{label:>16} {str(dtype)[6:]:>10} {times[0]:8.2f} {times[1]:9.2f} {times[0] / times[1]:15.2f}")


def of_one_query() -> None:
    """What generation asks at each token; keys and values are read from a longer cache."""
    print(f"\n{'B H S D':>16} {'precision':>10} {'fused':>8} {'products':>9}  microseconds, one query, no gradient")
    for shape in ((1, 12, 160, 64), (8, 12, 160, 64), (8, 12, 1024, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            k, v = (torch.randn(*shape[:2], 1024, shape[3], dtype=dtype)[:, :, : shape[2]] for _ in range(2))
            names = {"F": F, "q": torch.randn(*shape[:2], 1, shape[3], dtype=dtype), "k": k, "v": v}
            times = []
            for statement in ("F.scaled_dot_product_attention(q, k, v)", "(q @ k.mT / 8).softmax(-1) @ v"):
                timer = Timer(statement, globals=names, num_threads=torch.get_num_threads())
                times.append(timer.blocked_autorange(min_run_time=0.3).median * 1e6)
            print(f"{' '.join(map(str, shape)):>16} {str(dtype)[6:]:>10} {times[0]:8.0f} {times[1]:9.0f}")


if __name__ == "__main__":
    main()
    of_one_query()
