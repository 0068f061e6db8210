"""The verb `batch`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.errors import require
from gptlab.files import require_writable, write_atomically
from gptlab.registry import command

if TYPE_CHECKING:
    from gptlab.commands.batch_branches import Trunk

LEAST = 5  # steps of the largest batch


@dataclass
class CriticalBatchConfig:
    """Find how large the batch of a run may be, by branches off its checkpoints with larger batches."""

    run: str = "latest"  # whose checkpoints are branched off
    steps: list[int] = field(default_factory=list)  # of the checkpoints; none: all that are kept, but for the last step
    factors: list[int] = field(default_factory=lambda: [2, 4, 8])  # sizes to try, in batches of the run; 1 always is
    tokens: float | None = None  # that each branch reads; null: a tenth of what the run has read
    tolerance: float = 0.01  # nats by which the loss may be above that of the run's own batch
    power: float = 0.5  # the rate grows with the batch to this power: 0.5 suits Adam, 1 SGD
    out: str | None = None  # a folder for the branches and the picture; the same one goes on after a stop
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        require(bool(self.out), "out", self.out or "null", "is needed", "give out=DIR")
        factors = self.factors
        require(bool(factors) and min(factors) >= 1, "factors", factors, "are not from 1 up", "try [2,4,8]")
        require(max(factors) > 1, "factors", factors, "have none above 1", "try [2,4,8]")
        require(min([1, *self.steps]) >= 1, "steps", self.steps, "are not from 1 up", "leave them out")
        tokens = self.tokens
        require(tokens is None or tokens > 0, "tokens", tokens, "is not above 0", "leave it out")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "is negative", "0.01 is usual")
        require(0 <= self.power <= 1, "power", self.power, "is not in [0, 1]", "0.5 suits Adam, 1 SGD")


@command
def batch(config: CriticalBatchConfig) -> dict[str, Any]:
    """Train branches off a run's checkpoints, each with a larger batch, and tell up to which size the loss is kept.

    All branches of a checkpoint read as much. Prints and returns the losses, the critical size at each checkpoint, and
    the schedule of the batch that follows; draws the curves. Branches that are finished are kept, so that the same
    command goes on after a stop.
    """
    from gptlab.runs.run_dir import RunDir

    run = RunDir.find_as("run", config.run)
    out = Path(str(config.out)).expanduser()
    require_writable("out", config.out, out)

    from gptlab.commands.batch_branches import losses_at, require_own_folder, trunk_of
    from gptlab.commands.batch_tables import show
    from gptlab.planning.critical_batch import Branches, schedule_of
    from gptlab.reporting.pictures import require_matplotlib

    require_matplotlib("out", str(config.out), "")
    trunk = trunk_of(run)
    steps = _steps(config, trunk)
    factors = sorted({1, *config.factors})
    sequences = {step: _sequences(config, trunk, step, factors[-1]) for step in steps}
    require_own_folder(out, trunk, config.power, sequences)

    from gptlab.reporting.critical_batch import picture

    found = [
        Branches(step, trunk.sizes.start(step), losses_at(out, trunk, step, factors, sequences[step], config.power))
        for step in steps
    ]
    answer = {
        "run": str(run.path),
        "tolerance": config.tolerance,
        "power": config.power,
        "checkpoints": [
            {
                "step": each.step,
                "sequences": each.position,
                "tokens": round(each.position * trunk.tokens_per_sequence),
                "read": round(sequences[each.step] * trunk.tokens_per_sequence),
                "batch": each.own,
                "losses": {str(size): None if math.isnan(loss) else loss for size, loss in each.losses.items()},
                "critical": each.critical(config.tolerance),
                "beyond": each.beyond(config.tolerance),
            }
            for each in found
        ],
        "schedule": schedule_of(found, config.tolerance),
    }
    show(answer)
    write_atomically(out / "critical_batch.png", picture(found, config.tolerance, trunk.tokens_per_sequence))
    print(f"the picture is {out / 'critical_batch.png'}")
    return answer


def _steps(config: CriticalBatchConfig, trunk: Trunk) -> list[int]:
    """Return the steps of the checkpoints to branch off."""
    kept = trunk.run.by_step()
    asked = sorted({*config.steps}) or [step for step in kept if step < trunk.steps] or [*kept][-1:]
    missing = next((step for step in asked if step not in kept), None)
    there = ", ".join(map(str, kept)) or "none"
    require(bool(asked), "run", config.run, "keeps no checkpoint of a step", "train one with checkpoint.keep_last=10")
    require(missing is None, "steps", missing, f"is no step of a checkpoint that the run keeps: {there}", "take those")
    return asked


def _sequences(config: CriticalBatchConfig, trunk: Trunk, step: int, factor: int) -> int:
    """Return how many sequences each branch off a checkpoint reads: a multiple of the largest batch."""
    largest = factor * trunk.sizes.size(step)
    asked = trunk.tokens / 10 if config.tokens is None else config.tokens
    steps = round(asked / trunk.tokens_per_sequence / largest)
    value = config.tokens if config.tokens is None else f"{config.tokens:g}"
    why = f"{asked:,.0f} tokens are {steps} steps of {largest} sequences, and fewer than {LEAST} say nothing"
    todo = f"give {LEAST * largest * trunk.tokens_per_sequence:.0f} or more, or smaller factors"
    require(steps >= LEAST, "tokens", value or "null", why, todo)
    return steps * largest
