"""Print what `scaling` has found."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from gptlab.commands.plan_tables import number


def show_fit(found: dict[str, Any]) -> None:
    """Print the coefficients with their intervals, and the best size for each budget."""
    console = Console()
    console.print("L(N, D) = E + A / N^a + B / D^b, in nats per token", highlight=False)
    heads = [f"{found['level']:.0%} by bootstrap", "by profile"]
    table = Table("", Column("fitted", justify="right"), *(Column(head, justify="right") for head in heads))
    for name in ("E", "A", "B", "a", "b"):
        drawn, profiled = found["intervals"][name], found["profile"].get(name)
        table.add_row(name, _short(found[name]), _between(drawn), _between(profiled) if profiled else "")
    table.caption = f"{found['points']} points, {found['typical_error']:.2%} off the curve as a rule"
    console.print(table)
    for each in found["left_out"]:
        console.print(f"left out: {each['run']} {each['why']}", markup=False, highlight=False, soft_wrap=True)
    names = ("FLOPs", "parameters", "tokens", "tokens a parameter", "loss")
    best = Table(*(Column(name, justify="right") for name in names), title="least loss", title_justify="left")
    for each in found["best"]:
        if each["parameters"] is None:
            best.add_row(f"{each['flops']:.2e}", *(["none"] * 4))
        else:
            share = number(each["tokens"] / each["parameters"])
            size = f"{each['parameters']:.3g}{' *' if each['beyond'] else ''}"
            row = f"{each['flops']:.2e}", size, f"{each['tokens']:.3g}", share
            best.add_row(*row, f"{each['loss']:.3f}")
    console.print(best)
    if any(each["beyond"] for each in found["best"]):
        console.print("* beyond the sizes of the points: the law was not seen to hold there", highlight=False)
    if found["E"] == 0:
        console.print("E is 0: where the loss ends cannot be told from so few tokens", highlight=False)


def show_prediction(found: dict[str, Any], file: str) -> None:
    """Print a prediction and where it is registered."""
    of = f"{found['parameters']:.4g} parameters and {found['tokens']:.4g} tokens"
    line = f"predicted for {of}: {found['loss']:.4f}, {_interval(found)}; registered in {file}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def show_outcome(found: dict[str, Any], file: Path) -> None:
    """Print an outcome beside its prediction."""
    where = "inside" if found["inside"] else "outside"
    line = f"predicted {found['predicted']:.4f}, {_interval(found)}; it is {found['loss']:.4f}, {where}"
    line += f" ({found['error']:+.4f} nats); kept in {file}"
    Console().print(line, markup=False, highlight=False, soft_wrap=True)


def show_ranks(found: dict[str, Any]) -> None:
    """Print how well each size ranks."""
    names = ("parameters", "pairs", "in the order of the largest")
    table = Table(*(Column(name, justify="right") for name in names), title=found["rank"], title_justify="left")
    for each in found["sizes"]:
        table.add_row(f"{each['parameters']:.4g}", str(each["pairs"]), f"{each['accuracy']:.0%}")
    Console().print(table)


def _interval(found: dict[str, Any]) -> str:
    return f"{found['level']:.0%} interval {found['low']:.4f} to {found['high']:.4f}"


def _between(ends: list[float]) -> str:
    return f"{_short(ends[0])} to {_short(ends[1])}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
