"""Measure how fast a model reads prompts and decodes, and which share of the device's limits that is."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from gptlab.decoding.context import Limits
from gptlab.decoding.speed import decode_seconds, prefill_seconds
from gptlab.evaluation.precision import in_precision, lacks_int8
from gptlab.model.config import GPTConfig
from gptlab.planning.advice import Decoding, Findings, Trial, decoding_advice
from gptlab.planning.inference import decode_bytes, decode_flops, prefill_flops
from gptlab.training.memory import is_out_of_memory

LONGEST_PROMPT, NEW, CONTEXT = 2048, 64, 256  # ids of a prompt where none is asked for; ids of a text, and before it


@dataclass(frozen=True)
class DeviceLimits:
    """The most that a device does, as it was measured."""

    device: str  # its kind: cpu, cuda
    bandwidth: float  # bytes a second
    flops: dict[str, float]  # operations a second of products, by precision: fp32, bf16, fp16


def prompt_lengths(asked: Sequence[int], block_size: int) -> list[int]:
    """Return the lengths of prompts: those asked for, or an eighth, a half and all of the context."""
    longest = min(block_size, LONGEST_PROMPT)
    return sorted(set(asked or (max(1, longest // 8), max(1, longest // 2), longest)))


def measure_inference(
    build: Callable[[], Any],
    precision: str,
    batches: Sequence[int],
    prompts: Sequence[int],
    limits: DeviceLimits,
    until: float,
    console: Console,
) -> Findings:
    """Return the rows of prefill and decoding up to the time `until`, and what other precisions give.

    `build` returns the model, `precision` is 32-true or bf16-true; time.perf_counter gives the time.
    """
    gpt = in_precision(build(), precision, fast=True, device=limits.device)
    config, block_size = gpt.config, gpt.config.block_size
    kind = "bf16" if precision == "bf16-true" else "fp32"
    rates = _Rates(config if isinstance(config, GPTConfig) else None, kind, limits)
    lengths, sizes = prompt_lengths(prompts, block_size), sorted(set(batches))
    context = max(1, min(CONTEXT, block_size // 2))
    texts = Limits(max(2, min(NEW, block_size - context)), block_size, n_vocab=gpt.config.vocab_size)
    others = _others(gpt, kind, limits)
    rows: dict[str, list[tuple[int, list[float]]]] = {"decode": [], "prefill": []}
    mixed = itertools.zip_longest(sizes, lengths)  # so that there is some of both where time is short
    cells = [(what, n) for pair in mixed for what, n in zip(rows, pair, strict=True) if n is not None]
    for place, (what, n) in enumerate(cells):
        console.print(f"decoding {n} at once" if what == "decode" else f"reading {n:,} tokens", highlight=False)
        end = _share(until, len(cells) + len(others) - place)
        if what == "decode":
            seconds = _timed(functools.partial(decode_seconds, gpt, n, context, texts, end), until)
        else:
            seconds = _timed(functools.partial(prefill_seconds, gpt, n, texts, end), until)
        rows[what].append((n, seconds))
    trials = []
    for place, other in enumerate(others):
        console.print(f"decoding with precision={other}", highlight=False)
        del gpt
        (first, before), end = rows["decode"][0], _share(until, len(others) - place)
        gpt = in_precision(build(), other, fast=True, device=limits.device)
        after = _timed(functools.partial(decode_seconds, gpt, first, context, texts, end), until)
        note = f"tried here with batch {first}; sample and serve take it"
        trials.append(Trial.of(f"precision={other}", before, after, note))
    middle = context + texts.max_new_tokens // 2
    decode = [{"batch": n, **rates.decode(n, middle, seconds)} for n, seconds in rows["decode"]]
    prefill = [{"prompt_tokens": n, **rates.prefill(n, seconds)} for n, seconds in rows["prefill"]]
    figures = {"precision": precision, "context": context, "decode": decode, "prefill": prefill}
    measured = [
        Decoding(row["batch"], row["tokens_per_second"], row["share_of_bandwidth"], row["share_of_peak"])
        for row in decode
        if row["tokens_per_second"] is not None
    ]
    return Findings(figures, trials, decoding_advice(measured, trials))


def _others(gpt: Any, kind: str, limits: DeviceLimits) -> list[str]:
    """Return the precisions that may be faster: bf16 where the device is, and int8 where the model can have it."""
    faster = kind == "fp32" and "bf16" in limits.flops and limits.flops["bf16"] > limits.flops["fp32"]
    return [*(["bf16-true"] if faster else []), *(["int8"] if lacks_int8(gpt, limits.device) is None else [])]


def _share(until: float, parts: int) -> float:
    """Return the time at which the first of equal parts of what is left ends."""
    now = time.perf_counter()
    return now + max(0.0, until - now) / parts


def _timed(work: Callable[[], list[float]], until: float) -> list[float]:
    """Return the seconds of what is timed; none where there is no time, or no memory."""
    try:
        return work() if time.perf_counter() < until else []
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return []


@dataclass(frozen=True)
class _Rates:
    """The speeds that seconds are, with their shares of the limits where the model's operations are known."""

    config: GPTConfig | None
    kind: str
    limits: DeviceLimits

    def decode(self, batch: int, context: int, seconds: Sequence[float]) -> dict[str, Any]:
        """Return the figures of steps that took so many seconds each, behind `context` tokens on average."""
        found = speeds(batch, seconds)
        flops = moved = None
        if self.config is not None:
            flops = decode_flops(self.config, context)
            moved = decode_bytes(self.config, batch, context, 4 if self.kind == "fp32" else 2)
        rate = found["tokens_per_second"]
        return {
            "tokens_per_second": rate,
            "tokens_per_second_low": found["tokens_per_second_low"],
            "tokens_per_second_high": found["tokens_per_second_high"],
            "milliseconds_per_token": found["milliseconds"],
            "bytes_per_token": moved,
            "flops_per_token": flops,
            "share_of_bandwidth": rate and moved and rate * moved / self.limits.bandwidth,
            "share_of_peak": rate and flops and rate * flops / self.limits.flops[self.kind],
            "repeats": len(seconds),
        }

    def prefill(self, length: int, seconds: Sequence[float]) -> dict[str, Any]:
        """Return the figures of prompts of `length` tokens that took so many seconds each."""
        found = speeds(length, seconds)
        flops = None if self.config is None else prefill_flops(self.config, length)
        rate = found["tokens_per_second"]
        share = rate and flops and rate / length * flops / self.limits.flops[self.kind]
        return {**found, "flops": flops, "share_of_peak": share, "repeats": len(seconds)}


def speeds(tokens: int, seconds: Sequence[float]) -> dict[str, float | None]:
    """Return the median speed of what takes `tokens` each time, and those at a tenth of the times from each end."""
    if not seconds:
        return dict.fromkeys(
            ("tokens_per_second", "tokens_per_second_low", "tokens_per_second_high", "milliseconds"), None
        )
    low, middle, high = spread(seconds)
    return {
        "tokens_per_second": tokens / middle,
        "tokens_per_second_low": tokens / high,
        "tokens_per_second_high": tokens / low,
        "milliseconds": 1000 * middle,
    }


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median between the values that a tenth is below, and a tenth above."""
    ordered, tenth = sorted(values), (len(values) - 1) // 10
    return ordered[tenth], statistics.median(ordered), ordered[-1 - tenth]
