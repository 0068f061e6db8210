"""Train the branches of `batch`, each in a process and a run directory of its own, and read what they have come to."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.batch_sizes import BatchSizes
from gptlab.config.overrides import quoted
from gptlab.config.record import read_typed
from gptlab.errors import RunFailed, Stopped, one_line, require
from gptlab.files import read_object, write_atomically
from gptlab.runs.reader import read_run
from gptlab.runs.run_dir import PASSING, RunDir
from gptlab.sweep.job import LIFELINE

if TYPE_CHECKING:
    from gptlab.training.config import TrainConfig

NOTE, MOST_BYTES = "branches.json", 1 << 20
NOT_FINITE = "its gradient is not finite"  # in the error that ends a run which has diverged


@dataclass(frozen=True)
class Trunk:
    """The run that is branched off."""

    run: RunDir
    config: TrainConfig
    steps: int  # that it has done
    tokens: float  # that it has read
    tokens_per_sequence: float

    @property
    def sizes(self) -> BatchSizes:
        """The sequences of each of its steps."""
        return self.config.batch_sizes


def trunk_of(run: RunDir) -> Trunk:
    """Return a run as one to branch off; raises UserError where it has no figures yet, or its loss is none."""
    config, record = read_typed(run.path / "config.yaml"), read_run(run.path, run.path.name)
    steps, tokens = (int(record.figure(key) or 0) for key in ("steps", "tokens"))
    known = steps > 0 and tokens > 0 and record.figure("val_loss") is not None
    require(known, "run", run.path, "has not come to a loss yet", "let it finish, or stop it with Ctrl-C")
    return Trunk(run, config, steps, tokens, tokens / config.batch_sizes.start(steps))


def require_own_folder(out: Path, trunk: Trunk, power: float, sequences: dict[int, int]) -> None:
    """Write down what a folder of branches is of; raises UserError where it holds other branches, or other files."""
    own: dict[str, Any] = {"run": str(trunk.run.path.resolve()), "power": power, "sequences": {}}
    todo = "give a new folder, or the same keys"
    if out.exists() and any(out.iterdir()):
        require((out / NOTE).exists(), "out", out, "holds other files", "give a new folder")
        before = read_object("out", out / NOTE, MOST_BYTES, "give a new folder")
        same = all(before.get(key) == own[key] for key in ("run", "power")) and isinstance(
            before.get("sequences"), dict
        )
        require(same, "out", out, "holds branches off another run, or with another power", todo)
        for step, number in sequences.items():
            there = before["sequences"].get(str(step), number)
            why = f"holds branches off step {step} that read {there} sequences, not {number}"
            require(there == number, "out", out, why, todo)
        own = before
    out.mkdir(parents=True, exist_ok=True)
    own["sequences"] |= {str(step): number for step, number in sequences.items()}
    write_atomically(out / NOTE, (json.dumps(own, indent=2) + "\n").encode())


def losses_at(out: Path, trunk: Trunk, step: int, factors: list[int], sequences: int, power: float) -> dict[int, float]:
    """Return the held-out loss of each branch off a checkpoint, by its size of batch; those that are not there yet are
    trained. Raises RunFailed where one fails, and Stopped."""
    found = {}
    for factor in factors:
        size = factor * trunk.sizes.size(step)
        path = out / f"step-{step}" / f"batch-{size}"
        diverged = not _finish(RunDir(path), _overrides(trunk, step, size, sequences, power))
        summary, steps = RunDir(path).summary(), step + sequences // size
        why = f"batch: the branch {path} ended before step {steps}: leave out callbacks that end a run"
        if not diverged and summary.get("steps") != steps:
            raise RunFailed(one_line(why))
        loss = None if diverged else summary.get("val_loss")
        found[size] = math.nan if loss is None else float(loss)
        told = "diverged" if loss is None else f"loss {found[size]:.4f}"
        print(f"step {step}, {size} sequences a step: {told}", flush=True)
    return found


def _overrides(trunk: Trunk, step: int, size: int, sequences: int, power: float) -> list[str]:
    """Return what a branch has other than the run: the batch, and the rate that the run had there, scaled and kept."""
    sizes, position = trunk.sizes, trunk.sizes.start(step)
    before = [list(change) for change in sizes.changes if change[0] < position]
    changes = str([*before, [position, size]]).replace(" ", "")
    steps = step + sequences // size
    # the rate is for the size of the first step, from which `power` takes it to that of the branch
    lr = _rate(trunk, step) * (sizes.first / sizes.size(step)) ** power
    ((unit, _),) = trunk.config.budget.fixed().items()
    return [
        *("schedule=constant", "schedule.warmup_steps=0", f"schedule.batch={changes}", f"schedule.batch_power={power}"),
        *(f"optimizer.lr={lr!r}", *([] if unit == "steps" else [f"budget.{unit}=null"]), f"budget.steps={steps}"),
        *(
            "sample_prompts=[]",
            f"trainer.val_every_n_steps={steps}",
            "trainer.val_at_start=false",
            "checkpoint.keep_last=1",
        ),
        *(
            f"name={trunk.config.name.rpartition('/')[2]}-{step}-{size}",
            "resume=" + quoted(str(trunk.run.by_step()[step])),
        ),
    ]


def _rate(trunk: Trunk, step: int) -> float:
    """Return the learning rate of the step after a checkpoint, as the run would have gone on; raises UserError at 0."""
    from gptlab.runs.checkpoint_file import read_checkpoint

    saved = read_checkpoint(trunk.run.by_step()[step], "meta")
    (schedule,) = saved["lr_schedulers"]
    share = schedule["_last_lr"][0] / schedule["base_lrs"][0]
    why = "the learning rate of the run has come to 0 there"
    require(share > 0, "steps", step, why, "take checkpoints before its decay")
    return float(share * trunk.config.optimizer.lr)


def _finish(run: RunDir, overrides: list[str]) -> bool:
    """Train a branch to its end, from where it was stopped if it was begun; tell whether it has not diverged before."""
    if run.is_begun() and run.status() == "finished":
        return True
    own = quoted(str(run.path.resolve()))
    asked = [f"resume={own}"] if run.is_begun() else [*overrides, f"run_dir={own}"]
    run.path.parent.mkdir(parents=True, exist_ok=True)
    log = run.path.parent / f"{run.path.name}.log"
    code = _train(asked, log)
    if code == 0:
        return True
    if code > 128 or code < 0:
        raise Stopped(code - 128 if code > 128 else -code)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["it said nothing"]
    why = lines[-1].removeprefix("error: ")
    if NOT_FINITE in why:
        return False
    raise RunFailed(one_line(f"batch: the branch {run.path} failed ({why}); mend that, then give the same command"))


def _train(asked: list[str], log: Path) -> int:
    """Train in a process that saves and ends when this one is asked to stop, or is gone; return its exit code."""
    command, env = [sys.executable, "-m", "gptlab", "train", *asked], os.environ | {PASSING: "1", LIFELINE: "1"}
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True
        )
    assert process.stdin is not None
    with process.stdin:  # the process lives as long as this is open
        return process.wait()
