"""SIGKILLs at random instants, over what a run can be: resumed again and again it ends as a run that was never killed.

--faults=N says how many in all; a share of them goes to each kind of run.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.config import compose
from gptlab.runs.checkpoint_file import is_whole
from gptlab.training.run import train
from tests.conftest import ROOT, tiny_overrides
from tests.faults.instants import FILES, HOOKS, watched
from tests.forked import in_fork

KINDS = {
    "plain": ["model.dropout=0.2"],
    "EMA": ["ema=0.9", "model.dropout=0.2"],
    "accumulation": ["data.batch_size=6", "data.micro_batch_size=2"],
    "workers": ["data.num_workers=1"],
    "packing": ["data.packing=documents", "data.mask_documents=true"],
    "muon": ["optimizer=muon", "optimizer.normuon=true", "optimizer.cautious_weight_decay=true"],
}
ASK = [
    *(
        "logger=csv",
        "logger.every_n_steps=2",
        "budget.steps=8",
        "trainer.val_every_n_steps=4",
        "data.val_fraction=0.05",
    ),
    *("checkpoint.every_n_steps=3", "sample_prompts=[the cat]", "run_dir=run"),
]
OWN = ("state_dict", "optimizer_states", "global_step")


def shares(total: int) -> dict[str, int]:
    """Return how many kills each kind gets: the first ones one more where the number is not even."""
    each, more = divmod(total, len(KINDS))
    return {kind: each + (number < more) for number, kind in enumerate(KINDS)}


def leaves(value: Any) -> list[Any]:
    """Return all that is in nested dicts and lists, tensors as bytes."""
    if isinstance(value, dict):
        return [each for key in sorted(value, key=str) for each in [key, *leaves(value[key])]]
    if isinstance(value, list | tuple):
        return [each for inner in value for each in leaves(inner)]
    return (
        [value.contiguous().view(torch.uint8).numpy().tobytes()]
        if isinstance(value, torch.Tensor) and value.ndim
        else [value]
    )


def left(run: Path) -> dict[str, Any]:
    """Return what must be the same in two runs: weights, optimizer, samples, the curve of the loss."""
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    summary = json.loads((run / "summary.json").read_text())
    assert is_whole(run / "checkpoints/last.ckpt") and summary["status"] == "finished"
    found: dict[str, Any] = {key: leaves(saved[key]) for key in OWN}
    found["samples"] = (run / "samples.jsonl").read_text()
    return {**found, "loss": (summary["train_loss"], summary["val_loss"], summary["tokens"])}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_instants(kind: str, texts: str, pytestconfig: pytest.Config) -> None:
    """In a forked process, at a random one of all calls of HOOKS and FILES, which is before or after a file changes."""
    config = compose("train", [*tiny_overrides(texts), *ASK, *KINDS[kind]])
    begin: Callable[[], Any] = lambda: train(config)  # noqa: E731
    go_on: Callable[[], Any] = lambda: train(compose("train", ["run_dir=run", "resume=run"], run="run"))  # noqa: E731
    kills, rng = shares(pytestconfig.getoption("faults"))[kind], random.Random(kind)
    assert in_fork(begin) == (0, "")
    shutil.move("run", "whole")
    killed = 0
    while killed < kills:
        shutil.rmtree("run", ignore_errors=True)
        work = begin
        for _ in range(min(3, kills - killed)):  # at most three in a row
            code = _killed_after(rng.randrange(1, 400), work)
            killed += code == -signal.SIGKILL
            if code == 0:
                break
            begun = Path("run/summary.json").exists() or any(Path("run").glob("checkpoints/*.ckpt"))
            work = go_on if begun else begin
        if not (
            Path("run/summary.json").exists()
            and json.loads(Path("run/summary.json").read_text())["status"] == "finished"
        ):
            assert in_fork(work) == (0, "")
        assert left(Path("run")) == left(Path("whole"))


def _killed_after(count: int, work: Callable[[], Any]) -> int:
    """Do `work` in another process that kills itself at the count-th instant; returns its exit code."""
    reached = 0

    def act(instant: tuple[str, int]) -> None:
        nonlocal reached
        reached += 1
        if reached == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def work_with_it() -> None:
        with watched(act, {**HOOKS, **FILES}):
            work()

    return in_fork(work_with_it)[0]


@pytest.mark.slow
def test_two_ranks_killed_at_random_instants(texts: str, pytestconfig: pytest.Config) -> None:
    """All processes of a run on two devices are killed, as a queue does; with --faults=200 ten times."""
    kills, rng = (10 if pytestconfig.getoption("faults") >= 200 else 1), random.Random(2)
    command = [sys.executable, str(ROOT / "train.py")]
    ask = [*tiny_overrides(texts), *ASK, "trainer.devices=2", "budget.steps=30", "data.batch_size=4"]
    subprocess.run([*command, *ask], check=True, capture_output=True)
    shutil.move("run", "whole")
    again = [*command, *ask]
    for _ in range(kills):
        process = subprocess.Popen(again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        begun = time.monotonic()
        while (
            process.poll() is None
            and not any(Path("run").glob("checkpoints/*.ckpt"))
            and time.monotonic() < begun + 120
        ):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        again = [*command, "resume=run"]
    if json.loads(Path("run/summary.json").read_text())["status"] != "finished":
        subprocess.run(again, check=True, capture_output=True)
    assert left(Path("run")) == left(Path("whole"))
