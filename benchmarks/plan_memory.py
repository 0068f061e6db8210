"""Measure the peak memory of training steps on the CPU, beside what `gptlab plan` says of them.

    python benchmarks/plan_memory.py [--quick] [--out results.json]

Each combination of model, batch, precision, recomputation and adapter is a fresh process: two steps of random tokens,
with the optimizer, at 1 thread. Measured is the most that the process has of memory, less what it had after a step of
a tiny model; large tensors get pages of their own, and return them when they are freed.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from side_by_side import described, fresh, machine, megabytes, separate_pages, succeeded, table, write

from gptlab.config import compose

TINY = ["model.n_embd=32", "model.n_layer=1", "model.block_size=32", "data.batch_size=2"]
SMALL = ["model=small", "model.block_size=256", "model.vocab_size=50257", "data.batch_size=4"]
LLAMA = ["model=smollm2_135m", "model.block_size=256", "model.vocab_size=49152", "data.batch_size=4"]
COMBINATIONS = {
    "nano, 64 x 128": ["data.batch_size=64"],
    "nano, 64 x 128, recomputed": ["data.batch_size=64", "trainer.activation_checkpointing=true"],
    "nano, 4 of 16 x 128, muon": ["data.batch_size=64", "data.micro_batch_size=16", "optimizer=muon"],
    "small, 4 x 256": SMALL,
    "small, 4 x 256, bf16-mixed": [*SMALL, "trainer.precision=bf16-mixed"],
    "small, 4 x 256, bf16-true, lora": [*SMALL, "trainer.precision=bf16-true", "adapter=lora"],
    "smollm2_135m, 4 x 256, chunked": [*LLAMA, "loss=chunked"],
    "smollm2_135m, 4 x 256, recomputed, dora": [*LLAMA, "trainer.activation_checkpointing=true", "adapter=dora"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first two combinations")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        measure(COMBINATIONS[options.one])
        return
    results: dict[str, Any] = {"machine": machine(), "combinations": {}}
    print(described(results["machine"]))
    for name in list(COMBINATIONS)[: 2 if options.quick else None]:
        done = succeeded(fresh([sys.executable, __file__, "--one", name], {"OMP_NUM_THREADS": "1"}))
        results["combinations"][name] = json.loads(done.out.splitlines()[-1])
    rows = [
        [name, f"{row['planned_mb']:,.0f}", f"{row['peak_mb']:,.0f}", f"{row['planned_mb'] / row['peak_mb'] - 1:+.0%}"]
        for name, row in results["combinations"].items()
    ]
    table(("", "planned MB", "measured MB", "difference"), rows)
    if options.out:
        write(options.out, results)


def measure(overrides: list[str]) -> None:
    """In the child: print the peak of two steps, and what is planned for them, both in units of 2^20 bytes."""
    import torch

    from gptlab.training.random_step import RandomStep, memory_of

    config = compose("plan", overrides)
    size, several = config.data.micro_batch_size or config.data.batch_size, bool(config.data.micro_batch_size)
    if not config.model.vocab_size:
        config.model.vocab_size = config.tokenizer.vocab_size
    planned = memory_of(config, size, several).peak / 2**20
    cpu = torch.device("cpu")
    separate_pages()
    RandomStep(compose("plan", [*TINY, "model.vocab_size=64"]), 2, cpu).seconds(1, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before = megabytes("self", "VmRSS")
    RandomStep(config, size, cpu).seconds(config.data.batch_size // size, 1)
    print(json.dumps({"planned_mb": planned, "peak_mb": megabytes("self", "VmHWM") - before}))


if __name__ == "__main__":
    main()
