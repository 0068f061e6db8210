"""Print what `plan` has found."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Column, Table


def show(found: dict[str, Any]) -> None:
    """Print the model, the run, and the memory of each device."""
    console = Console()
    by_part = found["parameters_by_part"]
    without = found["parameters"] - by_part.get("embeddings", 0)
    model = _table("model")
    model.add_row("parameters", f"{found['parameters']:,}", f"{without:,} without embeddings")
    for part, count in by_part.items():
        model.add_row(f"  {part.replace('_', '-')}", f"{count:,}")
    if found["trained"] != found["parameters"]:
        model.add_row("trained", f"{found['trained']:,}")
    model.add_row("FLOPs a token", f"{found['flops_per_token']:.4g}", "forward and backward")
    for part, count in (found["flops_by_part"] or {}).items():
        model.add_row(f"  {part}", f"{count:.4g}")
    if told := found["inference"]:
        model.add_row("inference", f"{told['prefill_flops']:.4g}", "FLOPs to read a full context")
        model.add_row("", f"{told['decode_flops']:.4g}", "FLOPs for a token behind it")
        model.add_row("", size(told["cache_bytes"]), f"cache of it, besides {size(told['weight_bytes'])} of weights")
    console.print(model)

    run = _table("run")
    run.add_row("tokens", f"{found['tokens']:.4g}", f"{found['steps']:,} steps")
    best = f"Chinchilla: 20, {found['chinchilla_tokens']:.4g} tokens"
    run.add_row("  a parameter", f"{found['tokens_per_parameter']:.4g}", best)
    run.add_row("FLOPs", f"{found['flops']:.4g}")
    how = "measured on this machine" if found["mfu_measured"] else "as mfu= says"
    run.add_row("MFU", f"{found['mfu']:.1%}", how)
    run.add_row("time", duration(found["hours"]), f"{found['devices']:,} x {found['hardware']}")
    run.add_row("GPU-hours", f"{number(found['gpu_hours'])}")
    run.add_row("energy", f"{number(found['kwh'])} kWh", "at the most that the devices take")
    priced = found["price"] is not None
    price, why = (dollars(found["price"]), f"as of {found['price_as_of']}") if priced else ("?", "hardware.price=")
    run.add_row("price", price, why)
    console.print(run)

    memory = _table(f"memory of a device, micro-batch of {found['micro_batch_size']:,}")
    for part, count in found["memory"].items():
        memory.add_row(f"  {part}", size(count))
    verdict = "fits" if found["fits"] else "does not fit"
    memory.add_row("peak", size(found["memory_bytes"]), f"{verdict} into {size(found['device_bytes'])}")
    for way, count in found["memory_by_way"].items():
        memory.add_row(f"  {way.replace('_', ' ')}", size(count))
    console.print(memory)
    if measured := found.get("measured"):
        console.print(_beside(found, measured))
    if not found["fits"]:
        line = f"fits with: {found['change']}" if found["change"] else "no change of batch or strategy fits"
        console.print(line, highlight=False, soft_wrap=True)


def _beside(found: dict[str, Any], measured: dict[str, Any]) -> Table:
    """Return what was planned beside what the run took, as far as it was measured."""
    shown: dict[str, tuple[str, Callable[[float], str]]] = {
        "FLOPs": ("flops", lambda value: f"{value:.4g}"),
        "MFU": ("mfu", lambda value: f"{value:.1%}"),
        "time": ("hours", duration),
        "energy": ("kwh", lambda value: f"{number(value)} kWh"),
        "peak memory": ("memory_bytes", size),
    }
    heads = ("", Column("planned", justify="right"), Column("measured", justify="right"))
    table = Table(*heads, title="beside the run", title_justify="left", box=None)
    for name, (key, text) in shown.items():
        table.add_row(name, text(found[key]), "not measured" if measured[key] is None else text(measured[key]))
    return table


def _table(title: str) -> Table:
    table = Table("", "", "", title=title, title_justify="left", show_header=False, box=None)
    table.columns[1].justify = "right"
    return table


def number(value: float) -> str:
    """Return a number with its separators, or with four digits if it is small."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def dollars(price: float) -> str:
    """Return a price in dollars and cents."""
    return f"${price:,.2f}" if price >= 0.01 or price == 0 else "under $0.01"


def size(count: float) -> str:
    """Return a number of bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{number(count / scale)} {unit}"
    return f"{number(count / 1e3)} kB"


def duration(hours: float) -> str:
    """Return hours in the unit that suits them."""
    units = (("days", 24.0), ("hours", 1.0), ("minutes", 1 / 60))
    unit, scale = next((each for each in units if hours >= 2 * each[1]), ("seconds", 1 / 3600))
    length = hours / scale
    return f"{length:,.0f} {unit}" if length >= 100 else f"{length:.3g} {unit}"
