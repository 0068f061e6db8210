"""Print what `bench` has measured."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

MEASURED = "of the best product here"
BUSY = 0.5  # programs that compute, on average over a minute, from which it is told
PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6))
NAMES = {
    "data": "waiting for data",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer, clipping",
    "weight_average": "weight average",
    "rest": "Lightning and the rest",
}


def show(found: dict[str, Any]) -> None:
    """Print the device, inference, training, and what to change first."""
    console = Console()
    for line in _heading(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if inference := found["inference"]:
        numbers = "bf16" if inference["precision"] == "bf16-true" else "fp32"
        for title, table in (_decode(inference, numbers), _prefill(inference, numbers)):
            _print(console, title, table)
    if training := found["training"]:
        _print(console, *_training(training))
        for note in training["notes"]:
            console.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    for line in _changes(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print(console: Console, title: str, table: Table) -> None:
    """Print a table below its title, which may be wider."""
    console.print()
    console.print(title, style="italic", highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def _heading(found: dict[str, Any]) -> list[str]:
    threads = f", {found['threads']} of {found['cores']} cores" if found["threads"] else ""
    peaks = ", ".join(f"{rate(flops, 'FLOP/s')} in {kind}" for kind, flops in found["peak_flops_per_second"].items())
    lines = [
        f"{found['model']} on {found['device']}{threads}",
        f"measured here: memory is read at {rate(found['bandwidth_bytes_per_second'], 'B/s')}; products {peaks}",
    ]
    busy = found["load_average"] or 0.0
    if busy > BUSY:
        lines.append(f"other programs kept {busy:.1f} cores busy at the start: without them it may be faster")
    return lines


def _decode(found: dict[str, Any], numbers: str) -> tuple[str, Table]:
    title = f"decoding in {numbers}, greedy, behind {found['context']:,} tokens"
    table = _table("texts", "tokens/s", "80% of steps", "ms a token", "of bandwidth", f"of {numbers} peak")
    for row in found["decode"]:
        shares = percent(row["share_of_bandwidth"]), percent(row["share_of_peak"])
        table.add_row(str(row["batch"]), *_speed(row, row["milliseconds_per_token"]), *shares)
    return title, table


def _prefill(found: dict[str, Any], numbers: str) -> tuple[str, Table]:
    title = f"reading one prompt in {numbers}, to its first new token"
    table = _table("tokens", "tokens/s", "80% of prompts", "ms", "", f"of {numbers} peak")
    for row in found["prefill"]:
        table.add_row(f"{row['prompt_tokens']:,}", *_speed(row, row["milliseconds"]), "", percent(row["share_of_peak"]))
    return title, table


def _speed(row: dict[str, Any], milliseconds: float | None) -> tuple[str, str, str]:
    """Return the cells of a speed: its median, what it lies within, and the time; or that there is none."""
    if milliseconds is None:
        return "not measured", "", ""
    within = f"{number(row['tokens_per_second_low'])} to {number(row['tokens_per_second_high'])}"
    return number(row["tokens_per_second"]), within, number(milliseconds)


def _training(found: dict[str, Any]) -> tuple[str, Table]:
    micro = found["micro_batches"]
    parts = f" in {micro} micro-batches" if micro > 1 else ""
    compiled = ", compiled" if found["compile"] else ""
    batch = f"batch {found['batch_size']} ({found['tokens_per_step']:,.0f} tokens){parts}"
    title = f"training in {found['precision']}{compiled}, {batch}; the mean of {found['steps']} steps"
    table = Table("", Column("ms", justify="right"), Column("share", justify="right"), box=None)
    whole = sum(found[f"{part}_seconds"] for part in NAMES)
    for part, name in NAMES.items():
        seconds = found[f"{part}_seconds"]
        if part != "weight_average" or seconds:
            table.add_row(f"  {name}", number(1000 * seconds), percent(seconds / whole))
    if found["log_seconds"]:
        table.add_row("    of it the log", number(1000 * found["log_seconds"]), percent(found["log_seconds"] / whole))
    low, high = (number(1000 * found[f"seconds_per_step_{end}"]) for end in ("low", "high"))
    table.add_row("step", number(1000 * found["seconds_per_step"]), "", f"80% of steps take {low} to {high}")
    table.add_row("tokens/s", number(found["tokens_per_second"]), "")
    table.add_row("MFU", percent(found["mfu"]), "", f"of {found['mfu_is_of']}")
    if found["mfu"] != found["share_of_peak"]:
        table.add_row("", percent(found["share_of_peak"]), "", MEASURED)
    return title, table


def _changes(found: dict[str, Any]) -> list[str]:
    """Return the lines of what to change first, and of what was tried in vain."""
    lines = ["what to change first"]
    for of, name in {"training": "training", "inference": "decoding"}.items():
        if found[of] is None:
            lines += [f" {name}: not measured; give more seconds"] if of in found["not_measured"] else []
            continue
        some = [each for each in found["change_first"] if each["of"] == of]
        lines.append(f" {name}" + ("" if some else ": nothing stands out"))
        for place, each in enumerate(some, 1):
            gain = f"{each['gain']:.2f} times the tokens/s" + ("" if each["measured"] else ", at the most")
            lines += [f"  {place}. {each['change']}: {gain}", f"     ({each['why']})"]
        lines += [f"  {line}" for line in _not_advised(found, of)]
    return lines


def _not_advised(found: dict[str, Any], of: str) -> list[str]:
    """Return the lines of changes that gave nothing, that failed, or that there was no time for."""
    advised = {each["change"] for each in found["change_first"]}
    rest = [each for each in found["tried"] if each["of"] == of and each["change"] not in advised]
    in_vain = [f"{each['change']} ({each['gain']:.2f} times)" for each in rest if each["gain"] is not None]
    failed = [f"{each['change']} failed: {each['error']}" for each in rest if each["error"]]
    later = [each["change"] for each in rest if each["gain"] is None and not each["error"]]
    lines = [f"tried, no clear gain: {', '.join(in_vain)}"] if in_vain else []
    return lines + failed + ([f"not tried, give more seconds: {', '.join(later)}"] if later else [])


def _table(*heads: str) -> Table:
    columns: Sequence[Column] = [Column(head, justify="right") for head in heads]
    return Table(*columns, box=None)


def number(value: float) -> str:
    """Return a number with three digits, or whole with separators if it is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Return a share in percent; empty where it is not known."""
    return "" if share is None else f"{share:.1%}"


def rate(value: float, unit: str) -> str:
    """Return a rate with the prefix of its unit."""
    prefix, scale = next(((prefix, scale) for prefix, scale in PREFIXES if value >= scale), PREFIXES[-1])
    return f"{number(value / scale)} {prefix}{unit}"
