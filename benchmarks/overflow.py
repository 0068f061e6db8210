"""The loss past the context: in a ring (overflow=ring), and beside it that of reading the last tokens again (crop).

    python benchmarks/overflow.py RUN ... --text held_out.txt [--out results.json]

The same tokens of the text are predicted by both, in stretches of five contexts, from the second context on. With
`sinks` the first tokens of a stretch stay in view (StreamingLLM: Xiao et al. 2024).
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import described, machine, table, write
from torch import Tensor

import gptlab
from gptlab.interop.hub_directory import run_of
from gptlab.model.gpt import GPT

CONTEXTS, SINKS = 5, (0, 1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--text", type=Path, required=True, help="text that the models have not seen")
    parser.add_argument("--context", type=int, help="of all models, where it is less than their own")
    parser.add_argument("--stretches", type=int, default=64)
    parser.add_argument("--every", type=int, default=1, help="of so many tokens one is predicted")
    parser.add_argument("--out", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "repeats": 1, "workloads": []}
    print(described(results["machine"]))
    for run in options.runs:
        gpt, tokenizer = gptlab.load(run_of("run", run).path)
        T = min(options.context or gpt.config.block_size, gpt.config.block_size)
        ids = torch.tensor(tokenizer.encode(options.text.read_text(encoding="utf-8")))
        found = compare(gpt, ids, T, options.stretches, options.every)
        about = {"name": Path(run).name, "positions": gpt.config.positions, "n_layer": gpt.config.n_layer, "context": T}
        results["workloads"].append({**about, **found})
        print(f"\n{about['name']}: {found['tokens']:,} tokens past a context of {T}, crop {found['crop']:.4f} nats")
        rows = [
            [n, f"{r['loss']:.4f}", f"{r['change']:+.4f}", f"{r['interval']:.4f}"] for n, r in found["ring"].items()
        ]
        table(("ring, sinks", "nats", "change", "+-"), rows)
    if options.out:
        write(options.out, results)


def compare(gpt: GPT, ids: Tensor, T: int, stretches: int, every: int) -> dict[str, Any]:
    """Return the losses of crop and of rings, and the change with its 95% interval over stretches."""
    length = CONTEXTS * T + 1
    starts = torch.linspace(0, len(ids) - length, stretches).long()
    rows = torch.stack([ids[start : start + length] for start in starts.tolist()])
    x, y = rows[:, :-1], rows[:, 1:]
    at = torch.arange(T, CONTEXTS * T, every)
    crop = torch.stack([nats(gpt(x[:, t - T + 1 : t + 1])[:, -1:], y[:, t : t + 1])[:, 0] for t in at.tolist()], dim=1)
    ring = {}
    for sinks in SINKS:
        loss = ring_losses(gpt, x, y, T, sinks)
        change = (loss[:, at] - crop).mean(1)
        interval = 1.96 * float(change.std()) / math.sqrt(stretches)
        ring[str(sinks)] = {"loss": float(loss[:, at].mean()), "change": float(change.mean()), "interval": interval}
    return {"tokens": crop.numel(), "crop": float(crop.mean()), "ring": ring}


def nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each target (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def ring_losses(gpt: GPT, x: Tensor, y: Tensor, T: int, sinks: int) -> Tensor:
    """Return the loss of each target (B, T) where each token is read once, into a ring of T tokens."""
    cache = gpt.new_cache(len(x), x.shape[1], ring=T, sinks=sinks)
    return torch.cat([nats(gpt(x[:, t : t + 1], cache=cache), y[:, t : t + 1]) for t in range(x.shape[1])], dim=1)


if __name__ == "__main__":
    with torch.no_grad():
        main()
