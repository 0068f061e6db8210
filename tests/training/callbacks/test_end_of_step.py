"""A run that is stopped or killed at any instant, and resumed, equals one that never was."""

import functools
import itertools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping

from gptlab.config import compose
from gptlab.runs.checkpoint_file import is_whole
from gptlab.training.config import TrainConfig
from gptlab.training.loggers import Monitor
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.faults.instants import HOOKS, Instant, instants_of, left_by_kills, make_runs_quick, signalled
from tests.forked import in_fork
from tests.training.test_resume import rows

# averages, accumulation of three, dropout; steps that log, validate and save fall together at some steps only
ASK = [
    *("ema=0.9", "data.batch_size=6", "data.micro_batch_size=2", "model.dropout=0.2", "budget.steps=8"),
    *("data.val_fraction=0.03", "logger=csv", "logger.every_n_steps=3", "optimizer.lr=0.01"),
    *("trainer.val_every_n_steps=4", "sample_prompts=[the cat,a bird]", "checkpoint.keep_last=1"),
]
Beginning = Callable[..., Callable[[], None]]
Some = Callable[..., list[Any]]  # the fixture that chooses some cases, or with --faults=200 all
EVERY = {"together": 4, "apart": 3}  # steps from one checkpoint to the next
NOT_COMPARED = {"seconds", "tokens_per_second", "mfu", "run_dir", "started"}


@pytest.fixture
def beginning(texts: str, monkeypatch: pytest.MonkeyPatch) -> Beginning:
    """Return what starts a run: beginning(folder, steps between checkpoints, *overrides)()."""
    make_runs_quick(monkeypatch)

    @functools.cache
    def config(*ask: str) -> TrainConfig:
        return compose("train", [*tiny_overrides(texts), *ASK, *ask])

    def beginning(folder: str, every: int, *more: str) -> Callable[[], None]:
        composed = config(f"checkpoint.every_n_steps={every}", f"run_dir={folder}", *more)
        return lambda: train(composed)

    return beginning


def go_on(folder: str, *more: str) -> None:
    train(compose("train", [f"run_dir={folder}", f"resume={folder}", *more], run=folder))


def differences(whole: Path, run: Path) -> list[str]:
    """Name all in which the files of two runs differ, but for times."""
    found = []
    if rows(whole) != rows(run):
        found.append(f"metrics.csv: {rows(whole)} is not {rows(run)}")
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (whole, run)]
    if names[0] != names[1]:
        found.append(f"files: {names[0]} is not {names[1]}")
    for name in ("samples.md", "samples.jsonl"):
        if (whole / name).read_bytes() != (run / name).read_bytes():
            found.append(name)
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (whole, run))
    found += [f"summary: {key}: {a[key]} is not {b[key]}" for key in a if key not in NOT_COMPARED and a[key] != b[key]]
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (whole, run))
        for saved in (a, b):
            del saved["callbacks"]["ThroughputMonitor"], saved["loops"]  # times; counters that are not read back
            saved["callbacks"]["EndOfStep"]["metrics"] = {
                key: value
                for key, value in saved["callbacks"]["EndOfStep"]["metrics"].items()
                if "tokens_per" not in key
            } | dict.fromkeys(("train/mfu", "train/data_wait"))
        found += [f"{name}: {where}" for where in unequal(a, b)]
        if not is_whole(run / "checkpoints" / name):
            found.append(f"{name} is damaged")
    return found


def unequal(a: Any, b: Any, where: str = "") -> list[str]:
    """Name the places where two checkpoints differ."""
    if isinstance(a, dict) and isinstance(b, dict) and set(a) == set(b):
        return [place for key in a for place in unequal(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [place for i, (x, y) in enumerate(zip(a, b, strict=True)) for place in unequal(x, y, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [f"{where}: {a} is not {b}"]


def is_finished(folder: Path) -> bool:
    summary = folder / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["status"] == "finished"


def check_kills(beginning: Beginning, states: list[tuple[str, Path]], every: int, way: str) -> None:
    """Put each state back as the run's directory, go on, and compare with what the uninterrupted run has left."""
    wrong = []
    for name, state in states:
        if is_finished(state):
            continue
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(state, "run")
        if way == "auto" or not (state / "config.yaml").exists():
            code, said = in_fork(beginning("run", every, *(["resume=auto"] if way == "auto" else [])))
        else:
            code, said = in_fork(lambda: go_on("run"))
        found = [said.strip()] if code else differences(Path("whole"), Path("run"))
        if found:
            wrong.append((name, found))
    assert not wrong, "\n".join(f"killed {name}: {found[0]}, {len(found)} in all" for name, found in wrong)


@pytest.mark.slow
def test_a_run_that_is_compared(beginning: Beginning) -> None:
    """The comparison finds what there is to find: another seed of dropout changes all that is compared."""
    assert in_fork(beginning("one", 3))[0] == in_fork(beginning("two", 3))[0] == 0
    assert differences(Path("one"), Path("two")) == []
    assert in_fork(beginning("three", 3, "seed=7"))[0] == 0
    found = " ".join(differences(Path("one"), Path("three")))
    for what in ("metrics.csv", "samples.md", "samples.jsonl", "summary: train_loss", "summary: val_loss"):
        assert what in found
    for what in ("state_dict", "current_model_state", "optimizer_states", "callbacks/EndOfStep/best"):
        assert f"last.ckpt: /{what}" in found and f"best.ckpt: /{what}" in found


# an instant of each kind, and its occurrence: before, in and after a row that validates, one that saves, and others
STOPS = [
    *(("before training batch", 1), ("before training batch", 11), ("after training batch", 12)),
    *(("before validation", 1), ("before validation batch", 2), ("after samples", 1), ("after checkpoint", 1)),
    *(("after end of step", 24), ("before validation", 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize("every", EVERY.values(), ids=EVERY)
def test_a_stop_at_every_hook(every: int, beginning: Beginning, request: pytest.FixtureRequest) -> None:
    """At the first, a middle and the last call of each hook; the signals take turns.

    Without --faults=200 each of the two runs stops at one of the three, before half of the hooks and after the others.
    """
    found = instants_of(beginning("listed", every))
    by_name = {name: [count for other, count in found if other == name] for name, _ in found}
    calls = {name: sorted({1, (len(counts) + 1) // 2, len(counts)}) for name, counts in by_name.items()}
    assert len(by_name) == 2 * len(HOOKS) and sum(map(len, calls.values())) > 50
    if request.config.getoption("faults") < 200:
        sides = ["before", "after"] if every == EVERY["apart"] else ["after", "before"]
        turns = [(f"{sides[i % 2]} {hook}", i) for i, hook in enumerate(HOOKS)]
        calls = {name: [calls[name][i % len(calls[name])]] for name, i in turns}
    chosen = [(name, n) for name, numbers in calls.items() for n in numbers]
    check_stops(beginning, [*(STOPS if every == EVERY["apart"] else []), *chosen], every)


def check_stops(beginning: Beginning, instants: list[Instant], every: int) -> None:
    assert in_fork(beginning("whole", every)) == (0, "")
    numbers = itertools.cycle([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
    wrong, stopped = [], 0
    for instant, number in zip(instants, numbers, strict=False):
        shutil.rmtree("run", ignore_errors=True)
        code = signalled(instant, number, beginning("run", every))
        # 128 + n: it has stopped by itself; -n: the training was over, and the signal has ended the process
        found = [] if code in (128 + number, -number, 0) else [f"exit {code}"]
        stopped += code == 128 + number
        if not is_finished(Path("run")) and (went_on := in_fork(lambda: go_on("run"))) != (0, ""):
            found.append(went_on[1])
        if found := found or differences(Path("whole"), Path("run")):
            wrong.append((instant, number.name, found))
    assert not wrong, "\n".join(f"{name} {instant}: {found[0]}, {len(found)} in all" for instant, name, found in wrong)
    assert stopped >= len(instants) // 2  # the others were in the last step or after it


@pytest.mark.slow
@pytest.mark.parametrize("way", ["resume", "auto"])
@pytest.mark.parametrize("every", EVERY.values(), ids=EVERY)
def test_a_kill_at_every_instant(every: int, way: str, beginning: Beginning, some: Some) -> None:
    """Before and after each hook and each change of a file; `resume=auto` repeats the line that started the run."""
    states = left_by_kills(Path("whole"), beginning("whole", every))
    assert len(states) > 60
    check_kills(beginning, some(states, 8), every, way)


@pytest.mark.slow
def test_a_kill_at_every_instant_of_a_run_that_goes_on(beginning: Beginning, some: Some) -> None:
    """Killed in a row, resumed, and killed again: while its files are put back, and later."""
    assert in_fork(beginning("whole", 3)) == (0, "")
    assert signalled(("after samples", 1), signal.SIGKILL, beginning("again", 3)) == -signal.SIGKILL
    states = left_by_kills(Path("again"), lambda: go_on("again"))
    check_kills(beginning, some(states, 8), 3, "resume")


@pytest.mark.slow
@pytest.mark.parametrize(
    "instant", [("before training batch", 14), ("after checkpoint", 2), ("before best", 1)], ids=str
)
def test_sigkill(instant: Instant, beginning: Beginning) -> None:
    """A kill leaves what the copies of the tests above hold."""
    assert in_fork(beginning("whole", 3)) == (0, "")
    assert signalled(instant, signal.SIGKILL, beginning("run", 3)) == -signal.SIGKILL
    assert in_fork(lambda: go_on("run")) == (0, "")
    assert differences(Path("whole"), Path("run")) == []


@pytest.mark.slow
def test_a_kill_after_a_callback_has_ended_the_run(beginning: Beginning, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed it is at its end, as it was; asked again when it has finished, it goes on."""
    monkeypatch.setattr(Monitor, "build", lambda self: [EarlyStopping("val/loss", stopping_threshold=1e9)])
    assert in_fork(beginning("whole", 3)) == (0, "")
    assert json.loads(Path("whole/summary.json").read_text())["steps"] == 4  # its first validation
    for instant in (("before summary", 1), ("after checkpoint", 2), ("after samples", 1)):
        shutil.rmtree("run", ignore_errors=True)
        assert signalled(instant, signal.SIGKILL, beginning("run", 3)) == -signal.SIGKILL
        assert in_fork(lambda: go_on("run")) == (0, "")
        assert differences(Path("whole"), Path("run")) == []
    assert in_fork(lambda: go_on("run")) == (0, "")
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 8
