"""Greedy generation beside Hugging Face's `generate`, on the same random weights of GPT-2 small's shape.

    python benchmarks/decode.py [--repeats 3] [--new 128] [--json results.json]

Both run in one process, interleaved, from a prompt of 32 tokens, in batches of 1 and 8, in fp32 and bf16. The limit is
memory: every token reads every weight once, so bytes of weights over the bandwidth measured here is the least time.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from side_by_side import described, machine, write

from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import Limits, generate
from gptlab.decoding.packing import pack
from gptlab.interop.importing import read_weights
from gptlab.interop.names import config_from
from gptlab.model.gpt import GPT

PROMPT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = machine()
    theirs, ours = models()
    bandwidth = read_bandwidth()
    print(f"{described(found)}, transformers {transformers.__version__}")
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s; greedy, {PROMPT} + {options.new} tokens, GPT-2 124M shape")
    heads = ("precision", "batch", "gptlab", "HF", "ratio", "of limit", "first token", "HF", "last/first quarter")
    print(("{:>10}" + "{:>7}" + "{:>9}" * 6 + "{:>20}").format(*heads))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        theirs.to(dtype)
        packed = copy.deepcopy(ours).to(dtype)
        size = sum(p.nbytes for p in packed.parameters()) - packed.wpe.weight.nbytes
        pack(packed)
        for batch in (1, 8):
            row = measure(theirs, packed, batch, options.new, options.repeats, size / bandwidth)
            results.append({"precision": str(dtype)[6:], "batch": batch, **row})
            figures = f"{row['gptlab']:9.1f}{row['hf']:9.1f}{row['ratio']:9.2f}{row['of_limit']:9.0%}"
            figures += f"{row['first_ms']:7.0f}ms{row['hf_first_ms']:7.0f}ms{row['quarters']:20.2f}"
            print(f"{str(dtype)[6:]:>10}{batch:>7}{figures}", flush=True)
    if options.json:
        write(options.json, {"machine": found, "bandwidth": bandwidth, "rows": results})


def models() -> tuple[Any, GPT]:
    torch.manual_seed(0)
    config = transformers.GPT2Config()
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours_config = config_from(config.to_dict())
        ours = GPT(ours_config).eval()
        ours.load_state_dict(read_weights(Path(folder), "gpt2", ours_config))
    return theirs, ours


def measure(theirs: Any, ours: GPT, batch: int, new: int, repeats: int, limit: float) -> dict[str, float]:
    """Medians; `limit` is the seconds that it takes to read the weights once."""
    idx = torch.randint(50257, (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    prompts = idx.tolist()

    def hf(n: int) -> torch.Tensor:
        mask = torch.ones_like(idx)
        return theirs.generate(
            idx, attention_mask=mask, do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
        )

    def gptlab(n: int) -> list[tuple[float, int, int]]:
        keys = [(0, i) for i in range(batch)]
        steps = generate(ours, prompts, Greedy(), Limits(n, 1024), keys)
        return [(time.perf_counter(), step.row, step.token) for step in steps]

    if next(ours.parameters()).dtype == torch.float32:  # the same tokens, before anything is timed
        tokens = [[token for _, row, token in gptlab(new) if row == i] for i in range(batch)]
        assert tokens == hf(new)[:, PROMPT:].tolist()
    times: dict[str, list[float]] = {"gptlab": [], "hf": [], "first": [], "hf_first": [], "quarters": []}
    for _ in range(repeats):
        times["hf"].append(seconds(lambda: hf(new)))
        start = time.perf_counter()
        at = [when - start for when, row, _ in gptlab(new) if row == 0]
        times["gptlab"].append(at[-1])
        quarter = new // 4
        times["quarters"].append((at[-1] - at[-1 - quarter]) / (at[quarter] - at[0]))
        times["first"].append(at[0])
        times["hf_first"].append(seconds(lambda: hf(1)))
    mid = {name: statistics.median(each) for name, each in times.items()}
    return {
        "gptlab": batch * new / mid["gptlab"],
        "hf": batch * new / mid["hf"],
        "ratio": mid["hf"] / mid["gptlab"],
        "of_limit": limit / ((mid["gptlab"] - mid["first"]) / (new - 1)),
        "first_ms": mid["first"] * 1e3,
        "hf_first_ms": mid["hf_first"] * 1e3,
        "quarters": mid["quarters"],
    }


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_bandwidth() -> float:
    """Bytes per second at which a large array is summed, the best of ten."""
    array = torch.ones(100_000_000)
    return array.nbytes / min(seconds(array.sum) for _ in range(10))


if __name__ == "__main__":
    with torch.no_grad():
        main()
