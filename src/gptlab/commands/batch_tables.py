"""Print what `batch` has found."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table


def show(found: dict[str, Any]) -> None:
    """Print the loss of each size at each checkpoint beside that of the run's own, and the schedule that follows."""
    console = Console()
    factors = sorted({int(size) // each["batch"] for each in found["checkpoints"] for size in each["losses"]})
    heads = ["step", "tokens", "batch", "loss", *(f"x{factor}" for factor in factors[1:]), "critical"]
    table = Table(*(Column(head, justify="right", no_wrap=True) for head in heads))
    for each in found["checkpoints"]:
        own, *more = (each["losses"][str(factor * each["batch"])] for factor in factors)
        losses = [
            "diverged" if loss is None else f"{loss:.4f}" if own is None else f"{loss - own:+.4f}" for loss in more
        ]
        losses.insert(0, "diverged" if own is None else f"{own:.4f}")
        critical = f"{'>= ' if each['beyond'] else ''}{each['critical']}"
        table.add_row(str(each["step"]), f"{each['tokens']:.4g}", str(each["batch"]), *losses, critical)
    table.caption = f"critical: the loss is at most {found['tolerance']:g} nats above that of the run's own batch"
    console.print(table)
    changes = str(found["schedule"]).replace(" ", "")
    line = f"schedule.batch={changes}" if found["schedule"] else "no larger batch keeps the loss: leave it as it is"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
