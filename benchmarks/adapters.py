"""Speed and memory of adapters beside full tuning, and beside the same adapters of the `peft` library.

    python benchmarks/adapters.py [--repeats 3] [--batch 2] [--shape n_layer=2 n_embd=64 ...] [--out results.json]

All begin with the same random weights of GPT-2's shape in fp32, and learn one batch of random tokens with one loss,
fused AdamW and clipping in the same loop; only the model differs. Those of one kind begin with the same factors, and
their losses must agree. For speed they take turns within one process, a step each in every round after a first one, by
the CPU time that it takes, of which other work on the machine is no part. Memory is measured in a fresh process for
each, of two steps of a model that is made already: the most that it has, less what it had after a step of a tiny one.
"""

import argparse
import dataclasses
import gc
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from side_by_side import (
    Figure,
    LeftOut,
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
from torch import nn

from gptlab.interop.families import FAMILIES
from gptlab.interop.names import config_to, weights_of
from gptlab.model.adapters import adapt
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW
from gptlab.registry import options as registered
from gptlab.tasks.cross_entropy import cross_entropy
from gptlab.training.memory import keep_freed_pages

SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 256, "vocab_size": 50257}
TINY = {"n_layer": 1, "n_head": 1, "n_embd": 32, "block_size": 16, "vocab_size": 64}
OURS = ("full", "lora", "dora", "last_n", "bitfit", "head")
THEIRS = {"transformers full": "full", "peft lora": "lora", "peft dora": "dora"}  # and what of ours computes the same
TOLERANCE = 1e-4  # nats, between the losses of those that compute the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="steps that are timed, after a first one")
    parser.add_argument("--batch", type=int, default=2, help="sequences a step")
    parser.add_argument("--shape", nargs="+", default=[], metavar="KEY=N", help=f"another model: {', '.join(SHAPE)}")
    parser.add_argument("--candidates", nargs="+", choices=[*OURS, *THEIRS], default=[*OURS, *THEIRS], metavar="NAME")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"peak_mb": peak(**json.loads(options.one))}))
        return
    shape = SHAPE | {key: int(value) for key, _, value in (each.partition("=") for each in options.shape)}
    about = machine()
    print(f"{described(about)}; {options.batch} x {shape['block_size']} tokens a step, fp32")
    asked = {"shape": shape, "batch": options.batch}
    peaks, left_out = interleaved(options.candidates, 1, lambda name: child(name, asked))
    keep_freed_pages()  # as `gptlab train` does
    steps = {name: training(name, **asked) for name in peaks}
    rounds, _ = interleaved(list(steps), 1 + options.repeats, lambda name: next(steps[name]))
    found = {name: row(each, peaks[name][0]["peak_mb"], asked) for name, each in rounds.items()}
    left_out |= odd(found)
    found = {name: each for name, each in found.items() if name not in left_out}
    show(found)
    if options.out:
        work = {"name": "adapters", **asked, "candidates": found, "left_out": left_out}
        write(options.out, {"machine": about, "repeats": options.repeats, "workloads": [work]})


def child(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Measure the memory of a candidate in a process of its own."""
    library = "peft" if name.startswith("peft") else "transformers"
    if name in THEIRS and importlib.util.find_spec(library) is None:
        raise LeftOut(f"{library} is not installed")
    done = succeeded(fresh([sys.executable, __file__, "--one", json.dumps({"name": name, **asked})]))
    answer: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return answer


def row(rounds: list[dict[str, Any]], peak_mb: float, asked: dict[str, Any]) -> dict[str, Any]:
    tokens = asked["batch"] * asked["shape"]["block_size"]
    return {
        "trained": rounds[0]["trained"],
        "tokens_per_cpu_second": Figure.of([tokens / each["seconds"] for each in rounds[1:]]),
        "peak_mb": peak_mb,
        "losses": [each["loss"] for each in rounds],
    }


def odd(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what of the candidates of other libraries does not compute what ours does, and why that is known."""
    reasons = {}
    for name, ours in THEIRS.items():
        if name in found and ours in found:
            gap = max(abs(a - b) for a, b in zip(found[name]["losses"], found[ours]["losses"], strict=True))
            same = found[name]["trained"] == found[ours]["trained"]
            if not (gap < TOLERANCE and same):
                reasons[name] = f"its losses differ from those of {ours} by {gap:.1e}, or it trains other weights"
                print(f"  {name} is left out: {reasons[name]}", file=sys.stderr)
    return reasons


def show(found: dict[str, dict[str, Any]]) -> None:
    heads = ("", "trained", "tokens/CPU s", "of", "of full", "ours/it", "peak MB", "of full", "ours of it")
    full, rows = found.get("full"), []
    for name, each in found.items():
        speed, ours = each["tokens_per_cpu_second"], found.get(THEIRS.get(name, ""))
        rows.append(
            [
                *(name, f"{each['trained']:,}", f"{speed.median:,.0f}", f"{speed.low:,.0f} to {speed.high:,.0f}"),
                ratio(speed, full["tokens_per_cpu_second"]) if full else "",
                ratio(ours["tokens_per_cpu_second"], speed) if ours else "",
                f"{each['peak_mb']:,.0f}",
                f"{each['peak_mb'] / full['peak_mb']:.2f}" if full else "",
                f"{ours['peak_mb'] / each['peak_mb']:.2f}" if ours else "",
            ]
        )
    table(heads, rows)


def ratio(one: Figure, other: Figure) -> str:
    return f"{one.median / other.median:.2f}" + (" (tie)" if one is not other and one.ties(other) else "")


def peak(name: str, shape: dict[str, int], batch: int) -> float:
    """In the child: return the most memory that two steps of a candidate take, in units of 2^20 bytes."""
    separate_pages()
    next(training(name, TINY, 2))
    gc.collect()  # what is freed later would be missing from the peak
    before = megabytes("self", "VmRSS")
    steps = training(name, shape, batch)
    gc.collect()  # what the model was made of
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    next(steps), next(steps)
    return megabytes("self", "VmHWM") - before


def training(name: str, shape: dict[str, int], batch: int) -> Iterator[dict[str, Any]]:
    """Make a candidate; return an iterator that trains it a step at a time: its loss, and the CPU time that it took."""
    model, logits = built(name, GPTConfig(**shape))
    optimizer = AdamW(lr=1e-3).build(model)
    own = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(2)
    x, y = torch.randint(shape["vocab_size"], (2, batch, shape["block_size"]))

    def step() -> dict[str, Any]:
        start = time.process_time()
        loss = cross_entropy(logits(x).float(), y)
        loss.backward()
        nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.process_time() - start
        return {"seconds": seconds, "loss": loss.item(), "trained": sum(p.numel() for p in own)}

    return (step() for _ in itertools.count())


def built(name: str, config: GPTConfig) -> tuple[Any, Callable[[Any], Any]]:
    """Return a model that is to be trained, and what makes logits of ids by it."""
    torch.manual_seed(0)
    gpt = GPT(config)
    ours = THEIRS.get(name, name)
    if ours == name:
        if name != "full":
            adapted(gpt, name)
        return gpt, gpt
    theirs = transformers_model(gpt)
    if ours != "full":
        theirs = peft_model(theirs, gpt, ours)
    return theirs, lambda x: theirs(input_ids=x, use_cache=False).logits


def adapted(gpt: Any, name: str) -> list[str]:
    """Attach an adapter of ours, always with the same first factors; return the names of what it trains."""
    torch.manual_seed(1)
    return adapt(gpt, registered("adapter")[name]())


def transformers_model(gpt: Any) -> Any:
    """Return transformers' GPT-2 with the same weights, as memory of its own."""
    import transformers

    hf = config_to(dataclasses.replace(gpt.config, dropout=0.0))
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hf))
    model.load_state_dict(weights_of(gpt, hf), strict=False)
    model.tie_weights()
    return model.train()


def peft_model(model: Any, gpt: Any, name: str) -> Any:
    """Return a model with peft's adapter, with the first factors that ours has."""
    import peft

    ours, layers = registered("adapter")[name](), ["c_attn", "c_proj", "c_fc"]
    same = {"r": ours.rank, "lora_alpha": ours.alpha, "target_modules": layers, "fan_in_fan_out": True}
    found = peft.get_peft_model(model, peft.LoraConfig(**same, use_dora=name == "dora"))
    family, weights = FAMILIES["gpt2"], dict(found.named_parameters())
    with torch.no_grad():
        for each in adapted(gpt, name):
            layer, _, kind = each.rpartition(".")
            if kind == "lora_a":
                (theirs,) = family.theirs(f"{layer}.weight")
                named = f"base_model.model.{family.root}{theirs.removesuffix('.weight')}.lora_A.default.weight"
                weights[named].copy_(gpt.get_parameter(each))
    return found


if __name__ == "__main__":
    main()
