"""Print what `batch` has found."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table


def show(found: dict[str, Any]) -> None:
    """Print the loss of each size at each checkpoint beside that of the run's own, and the schedule that follows."""
    console = Console()
    factors = sorted({int(size) // each["batch"] for each in found["checkpoints"] for size in each["losses"]})
    heads = ["step", "tokens", "batch", *(f"x{factor}" if factor > 1 else "loss" for factor in factors), "critical"]
    table = Table(*(Column(head, justify="right") for head in heads))
    for each in found["checkpoints"]:
        own = each["losses"][str(each["batch"])]
        more = [each["losses"].get(str(factor * each["batch"])) for factor in factors[1:]]
        losses = [f"{own:.4f}", *("" if loss is None else f"{loss - own:+.4f}" for loss in more)]
        critical = f"{'at least ' if each['beyond'] else ''}{each['critical']}"
        table.add_row(str(each["step"]), f"{each['tokens']:.4g}", str(each["batch"]), *losses, critical)
    table.caption = f"sequences a step, whose loss is at most {found['tolerance']:g} nats above that of the run's own"
    console.print(table)
    if found["schedule"]:
        changes = str(found["schedule"]).replace(" ", "")
        console.print(f"schedule.batch={changes}", markup=False, highlight=False, soft_wrap=True)
    else:
        console.print("no larger batch keeps the loss: leave it as it is", highlight=False)
