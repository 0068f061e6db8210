"""Greedy generation beside Hugging Face's `generate`, on the same random weights of GPT-2 small's shape.

    python benchmarks/decode.py [--device cpu] [--repeats 3] [--new 128] [--out results.json]

Both run in one process, in turns, from a prompt of 32 tokens, in batches of 1 and 8, in fp32, bf16 and, on a CPU, with
weights of int8, beside which `generate` stays in bf16. The limit is memory: every token reads every weight once, so the
bytes of weights over the bandwidth measured here are the least time.
"""

import argparse
import copy
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import DEVICES, Figure, LeftOut, described, device, interleaved, machine, table, versus, write

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import generate
from gptlab.decoding.int8 import Int8Linear, pack_int8
from gptlab.decoding.onednn import pack
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.planning.limits import read_bandwidth, wait_for_device

PROMPT, CONTEXT = 32, 1024
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--precision", nargs="+", choices=[*DTYPES, "int8"], default=[*DTYPES, "int8"])
    parser.add_argument("--n-layer", type=int, default=12, help="of a model as wide as GPT-2 small")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    where = torch.device(device(options.device))
    results: dict[str, Any] = {"machine": machine(), "repeats": options.repeats, "workloads": []}
    theirs, ours = models(options.n_layer)
    bandwidth = read_bandwidth(where)
    print(f"{described(results['machine'])}; greedy on {where}, {PROMPT} + {options.new} tokens, GPT-2 124M shape")
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s")
    for precision in options.precision:
        dtype = DTYPES.get(precision)
        if dtype is None and where.type != "cpu":
            continue
        packed = copy.deepcopy(ours).to(where, dtype)
        size = sum(p.nbytes for p in packed.parameters()) - packed.wpe.weight.nbytes
        if dtype is None:
            pack_int8(packed)
            size = sum(module.nbytes for module in packed.modules() if isinstance(module, Int8Linear))
        else:
            pack(packed)
        if theirs is not None:
            theirs.to(where, dtype or torch.bfloat16)
        for batch in options.batch:
            found = measure(theirs, packed, precision, batch, options.new, options.repeats, size / bandwidth)
            about = {"name": "decode", "precision": precision, "batch": batch, "new": options.new}
            results["workloads"].append({**about, "device": where.type, "bandwidth": bandwidth, **found})
    if options.out:
        write(options.out, results)


def models(n_layer: int) -> tuple[Any, GPT]:
    """Hugging Face's GPT-2 (None, if it is not installed) and ours, of the same weights."""
    torch.manual_seed(0)
    ours = GPT(GPTConfig(**SIZES | {"n_layer": n_layer}, block_size=CONTEXT)).eval()
    if importlib.util.find_spec("transformers") is None:
        return None, ours
    import transformers

    from gptlab.interop.names import config_to, weights_of

    hf = config_to(ours.config)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf)).eval()
    theirs.load_state_dict(weights_of(ours, hf), strict=False)
    theirs.tie_weights()
    return theirs, ours


def measure(theirs: Any, ours: GPT, precision: str, batch: int, new: int, repeats: int, limit: float) -> dict[str, Any]:
    """Measure the candidates beside each other; `limit` is the seconds that it takes to read the weights once."""
    first = next(ours.parameters())
    idx = torch.randint(SIZES["vocab_size"], (batch, PROMPT), generator=torch.Generator().manual_seed(1))
    prompts, idx = idx.tolist(), idx.to(first.device)

    def hf(n: int) -> torch.Tensor:
        mask = torch.ones_like(idx)
        return theirs.generate(
            idx, attention_mask=mask, do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
        )

    def gptlab(n: int) -> list[tuple[float, int, int]]:
        keys = [(0, i) for i in range(batch)]
        steps = generate(ours, prompts, Greedy(), Limits(n, CONTEXT), keys)
        return [(time.perf_counter(), step.row, step.token) for step in steps]

    def of_gptlab() -> dict[str, Any]:
        start = time.perf_counter()
        at = [when - start for when, of, _ in gptlab(new) if of == 0]
        quarter = new // 4
        quarters = (at[-1] - at[-1 - quarter]) / (at[quarter] - at[0])
        return {"seconds": at[-1], "first": at[0], "quarters": quarters}

    def of_hf() -> dict[str, Any]:
        if theirs is None:
            raise LeftOut("transformers is not installed")
        return {"seconds": seconds(lambda: hf(new), first.device), "first": seconds(lambda: hf(1), first.device)}

    if theirs is not None and precision == "float32":  # before anything is timed
        same = max(1, new // 4)  # later two tokens may be equally likely but for rounding
        tokens = [[token for _, of, token in gptlab(same) if of == i] for i in range(batch)]
        assert tokens == hf(same)[:, PROMPT:].tolist()
    one_of = {"gptlab": of_gptlab, "hf": of_hf}
    rounds, left_out = interleaved(list(one_of), repeats, lambda name: one_of[name]())
    candidates = {name: row(each, batch * new, limit * (new - 1)) for name, each in rounds.items()}
    show(f"{precision}, batch {batch}", candidates)
    return {"candidates": candidates, "left_out": left_out}


def row(rounds: list[dict[str, float]], tokens: int, least: float) -> dict[str, Any]:
    """`least` is the seconds of all steps after the first one if nothing but reading the weights took time."""
    after_first = Figure.of([each["seconds"] - each["first"] for each in rounds])
    figures = {
        "tokens_per_second": Figure.of([tokens / each["seconds"] for each in rounds]),
        "first_ms": Figure.of([each["first"] * 1e3 for each in rounds]),
        "of_limit": least / after_first.median,
    }
    if "quarters" in rounds[0]:  # the last quarter's time over the first one's
        figures["quarters"] = Figure.of([each["quarters"] for each in rounds])
    return figures


def show(title: str, candidates: dict[str, dict[str, Any]]) -> None:
    ours, cells = candidates["gptlab"]["tokens_per_second"], []
    for name, each in candidates.items():
        speed = each["tokens_per_second"]
        ratio = "" if name == "gptlab" else versus(ours, speed)
        quarters = f"{each['quarters'].median:.2f}" if "quarters" in each else ""
        figures = f"{speed.median:.1f}", f"{speed.low:.1f} to {speed.high:.1f}", ratio, f"{each['of_limit']:.0%}"
        cells.append([name, *figures, f"{each['first_ms'].median:.0f}", quarters])
    print(f"\n{title}")
    table(("", "tokens/s", "of", "gptlab/it", "of limit", "first token ms", "last/first quarter"), cells)


def seconds(work: Callable[[], object], where: torch.device) -> float:
    start = time.perf_counter()
    work()
    wait_for_device(where)
    return time.perf_counter() - start


if __name__ == "__main__":
    with torch.no_grad():
        main()
