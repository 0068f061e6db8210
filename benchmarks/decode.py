"""Greedy generation beside Hugging Face's `generate`, on the same random weights of GPT-2 small's shape.

    python benchmarks/decode.py [--device cpu] [--repeats 3] [--new 128] [--out results.json]

Both run in one process, in turns, from prompts of `--prompt` tokens, in batches of 1, 8 and 32, in fp32, bf16 and, on a
CPU, with weights of int8, beside which `generate` stays in bf16. The limit is memory: every token reads every weight
once, so the bytes of weights over the bandwidth measured here are the least time.

The last rows are of a token past the context, in a small model with rotary positions: read again (overflow=crop), in a
ring (overflow=ring), in one with four attention sinks, and, beside them, the last tokens within the context.
"""

import argparse
import copy
import importlib.util
import itertools
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

CONTEXT = 1024
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257}
SMALL = {"n_layer": 4, "n_head": 4, "n_embd": 256, "vocab_size": 256, "block_size": 256}
PAST = 24  # tokens of a text that are timed past the context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--prompt", nargs="+", type=int, default=[32], help="tokens of a prompt")
    parser.add_argument("--precision", nargs="*", choices=[*DTYPES, "int8"], default=[*DTYPES, "int8"])
    parser.add_argument("--n-layer", type=int, default=12, help="of a model as wide as GPT-2 small")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    where = torch.device(device(options.device))
    results: dict[str, Any] = {"machine": machine(), "repeats": options.repeats, "workloads": []}
    theirs, ours = models(options.n_layer, max(CONTEXT, max(options.prompt) + options.new))
    bandwidth = read_bandwidth(where)
    print(f"{described(results['machine'])}; greedy on {where}, {options.new} new tokens, GPT-2 124M shape")
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
        for batch, length in itertools.product(options.batch, options.prompt):
            prompts = random_ids(batch, length)
            found = measure(theirs, packed, precision, prompts, options.new, options.repeats, size / bandwidth)
            about = {"name": "decode", "precision": precision, "batch": batch, "prompt": length, "new": options.new}
            results["workloads"].append({**about, "device": where.type, "bandwidth": bandwidth, **found})
    for batch in options.batch:
        found = {"name": "past_context", "precision": "float32", "batch": batch, "block_size": SMALL["block_size"]}
        results["workloads"].append({**found, "device": where.type, **past_context(where, batch, options.repeats)})
    if options.out:
        write(options.out, results)


def random_ids(batch: int, length: int, n_vocab: int = SIZES["vocab_size"]) -> torch.Tensor:
    return torch.randint(n_vocab, (batch, length), generator=torch.Generator().manual_seed(1))


def models(n_layer: int, context: int) -> tuple[Any, GPT]:
    """Hugging Face's GPT-2 (None, if it is not installed) and ours, of the same weights."""
    torch.manual_seed(0)
    ours = GPT(GPTConfig(**SIZES | {"n_layer": n_layer}, block_size=context)).eval()
    if importlib.util.find_spec("transformers") is None:
        return None, ours
    import transformers

    from gptlab.interop.names import config_to, weights_of

    hf = config_to(ours.config)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf)).eval()
    theirs.load_state_dict(weights_of(ours, hf), strict=False)
    theirs.tie_weights()
    return theirs, ours


def measure(
    theirs: Any, ours: GPT, precision: str, idx: torch.Tensor, new: int, repeats: int, limit: float
) -> dict[str, Any]:
    """Measure the candidates beside each other; `limit` is the seconds that it takes to read the weights once."""
    first, (batch, length) = next(ours.parameters()), idx.shape
    prompts, idx = idx.tolist(), idx.to(first.device)

    def hf(n: int) -> torch.Tensor:
        mask = torch.ones_like(idx)
        return theirs.generate(
            idx, attention_mask=mask, do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
        )

    def gptlab(n: int) -> list[tuple[float, int, int]]:
        keys = [(0, i) for i in range(batch)]
        steps = generate(ours, prompts, Greedy(), Limits(n, ours.config.block_size), keys)
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
        assert tokens == hf(same)[:, length:].tolist()
    one_of = {"gptlab": of_gptlab, "hf": of_hf}
    rounds, left_out = interleaved(list(one_of), repeats, lambda name: one_of[name]())
    candidates = {name: row(each, batch * new, limit * (new - 1)) for name, each in rounds.items()}
    show(f"{precision}, batch {batch}, prompts of {length} tokens", candidates)
    return {"candidates": candidates, "left_out": left_out}


def past_context(where: torch.device, batch: int, repeats: int) -> dict[str, Any]:
    """Measure the milliseconds of a step, which gives each of `batch` texts a token, past the context and before."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(**SMALL, positions="rope")).eval().to(where)
    pack(gpt)
    T = SMALL["block_size"]
    lengths = {"ring": T, "sinks": T, "crop": T, "within": T - PAST - 1}

    def step_ms(name: str) -> dict[str, float]:
        overflow = "ring" if name in ("ring", "sinks") else "crop"
        limits = Limits(PAST + 1, T, overflow=overflow, sinks=4 if name == "sinks" else 0)
        prompts, keys = random_ids(batch, lengths[name], SMALL["vocab_size"]).tolist(), [(0, i) for i in range(batch)]
        at = [time.perf_counter() for step in generate(gpt, prompts, Greedy(), limits, keys) if step.row == 0]
        return {"step_ms": (at[-1] - at[0]) / PAST * 1e3}

    for name in lengths:
        step_ms(name)  # warms up
    rounds, left_out = interleaved(list(lengths), repeats, step_ms)
    found = {name: Figure.of([each["step_ms"] for each in of]) for name, of in rounds.items()}
    print(f"\na token past a context of {T}, {batch} texts")
    rows = [
        [
            name,
            f"{each.median:.2f}",
            f"{each.low:.2f} to {each.high:.2f}",
            "" if name == "ring" else versus(each, found["ring"]),
        ]
        for name, each in found.items()
    ]
    table(("", "ms", "of", "it/ring"), rows)
    return {"candidates": {name: {"step_ms": each} for name, each in found.items()}, "left_out": left_out}


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
