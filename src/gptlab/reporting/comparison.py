"""Show the comparison of two runs as a table and in sentences."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from gptlab.errors import printable
from gptlab.evaluation.compared import Comparison
from gptlab.evaluation.comparison import Scored, compared
from gptlab.evaluation.example_comparison import ExampleScores
from gptlab.evaluation.statistics import LEVEL
from gptlab.metrics import HIGHER, shown_in


def found_table(found: Comparison, width: int) -> Table:
    """Return the scores of all runs that were compared as a table."""
    by_documents = [each for each in found.every if isinstance(each, Scored)]
    if by_documents:
        return comparison_table(by_documents, found.result["perplexity_refused"] is None, width)
    place = "evaluate" if isinstance(found.every[0], ExampleScores) else "tasks"
    shown = [row for row in shown_in(place) if row.quantity in found.result["runs"][0]]
    title = found.result.get("task")
    table = Table("", "run", *(row.head for row in shown), box=box.SIMPLE_HEAD, pad_edge=False, title=title)
    for each, stored in zip(found.every, found.result["runs"], strict=True):
        scores = (row.text(stored[row.quantity], precise=True) for row in shown)
        table.add_row(each.side, Text(printable(each.name), overflow="ellipsis"), *scores)
    return table


def comparison_table(every: Sequence[Scored], perplexities: bool, width: int) -> Table:
    """Return the scores of all runs as a table; the runs' names get the remaining width."""
    shown = [each for each in compared() if each.per == "byte" or perplexities]
    names = ["", "run", "nats/byte", *(each.head for each in shown), "context"]
    room = width - sum(len(name) + 2 for name in names if name != "run") - 4
    columns = [Column(name, justify="left" if i < 2 else "right", no_wrap=True) for i, name in enumerate(names)]
    columns[1].overflow = "ellipsis"
    columns[1].width = max(10, min(room, max(len(printable(each.name)) for each in every)))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for each in every:
        nats = f"{each.score.nats / each.score.bytes:.4f}"
        figures = [nats, *(row.text(each.value(row), precise=True) for row in shown)]
        name = Text(printable(each.name), overflow="ellipsis")
        table.add_row(each.side, name, *figures, f"{each.costs.protocol['block_size']:,}")
    return table


def sentences(result: dict[str, Any]) -> list[str]:
    """Return the difference in words: its size, its interval, and the number of seeds that would detect it."""
    unit, sign = result["unit"], -1 if result["better"] == HIGHER else 1
    size = result["units"]["what"] + (f" ({result['bytes']:,} bytes)" if "bytes" in result else "")
    lines = [f"b - a: {_interval(result['difference'], unit, sign)} over {size}"]
    if "stretches" in size:
        lines.append(f"There are few documents ({result['documents']}), so stretches of them are drawn again.")
    if result.get("examples_left_out"):
        lines.append(f"{result['examples_left_out']} examples are left out: not all runs hold them out.")
    if result.get("documents_left_out"):
        lines.append(f"{result['documents_left_out']} documents are left out: not all runs hold out or spell them.")
    if pairs := result.get("mcnemar"):
        only = f"{pairs['only_b']} items are right under b alone, {pairs['only_a']} under a alone"
        lines.append(f"{only} (McNemar's exact test, p = {pairs['p']:.2g})")
    if tested := result["seed_test"]:
        welch = f"Welch's t-test, {tested['degrees_of_freedom']:.1f} degrees of freedom, p = {tested['p']:.2g}"
        lines.append(f"over seeds: {_interval(tested['difference'], unit, sign)} ({welch})")
        lines += _at_any_time(result["over_seeds"], unit)
    else:
        lines.append("The interval is about these runs, not about their configs: that takes seeds, a=[RUN,RUN].")
    if floor := result["noise_floor"]:
        by_chance = f"two single runs differ by up to {floor['single_runs']:.4f} by chance ({LEVEL:.0%})"
        if not tested:
            more = abs(result["difference"]["value"]) > floor["single_runs"]
            by_chance += f", these by {'more' if more else 'less'}"
        lines.append(
            f"noise floor: seeds of one config deviate by {floor['deviation']:.4f} ({floor['seeds']}); {by_chance}"
        )
        if not result["over_seeds"]:
            needed = result["seeds_needed"] or "over 10,000"
            lines.append(f"seeds needed to see this difference with 80% power, if all are run: {needed} on each side")
    else:
        lines.append("noise floor: unknown; no two runs given or beside them differ in the seed alone")
    if result.get("perplexity_refused"):
        lines.append(f"Perplexities do not compare: {result['perplexity_refused']}; bits per byte do.")
    for side, keys in result["not_only_seeds"].items():
        lines += [f"The runs of {side} differ in more than the seed: {', '.join(keys)}."] if keys else []
    return lines


def _at_any_time(found: dict[str, Any] | None, unit: str) -> list[str]:
    """Return the verdict over seeds that holds however often one looks, and what pairs of seeds would do."""
    if found is None:
        return []
    bounds = "unbounded" if found["low"] is None else f"{found['low']:+.4f} to {found['high']:+.4f}"
    told = {"same": f"stop: no difference above {found['margin']} {unit}"}
    told |= {side: f"stop: {side} is better" for side in "ab"}
    more = found["more_seeds"]
    on = "over 1,000 more seeds" if more is None else f"about {more} more seed{'s' if more > 1 else ''}"
    told["go_on"] = f"go on, {on} on each side if all stays as it is"
    lines = [f"whenever you stop: {LEVEL:.0%} interval {bounds}: {told[found['verdict']]}"]
    if (together := found["correlation"]) is not None and not found["paired"] and together > 0.5:
        lines.append(f"The seeds of a and b go together (correlation {together:.2f}): paired=true may take fewer.")
    return lines


def _interval(difference: dict[str, float], unit: str, sign: int) -> str:
    value, low, high = difference["value"], difference["low"], difference["high"]
    better = "too close to call" if low <= 0 <= high else f"{'b' if sign * value < 0 else 'a'} is better"
    return f"{value:+.4f} {unit}, {LEVEL:.0%} interval {low:+.4f} to {high:+.4f}: {better}"
