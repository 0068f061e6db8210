"""A run starts, goes on or is refused; a refusal changes nothing."""

import itertools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.runs.samples import read_samples
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from gptlab.training.start import sample_prompts
from tests.conftest import tiny_overrides
from tests.faults.instants import fingerprint, left_by_kills, signalled
from tests.forked import in_fork
from tests.training.test_resume import RUN, resumed, rows, same

Tiny = Callable[..., TrainConfig]


@pytest.mark.parametrize("size", [256, 385])
def test_a_vocabulary_that_is_too_small_or_no_padding_is_refused(size: int, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=rf"^model.vocab_size={size}: .*257 tokens; leave it out, or pad: 320"):
        train(tiny(f"model.vocab_size={size}"))


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["budget.steps=4"], "budget.steps=4: is 4 steps, and the run that is resumed is at step 6; give more, or "),
        (["budget.tokens=128", "budget.steps=null"], "budget.tokens=128: is 1 steps, and the run that is resumed "),
        (["seed=7", "budget.steps=9"], "seed=7: but the run that is resumed has 1337; "),
        (["resume=run/checkpoints/step-5.ckpt"], "resume=run/checkpoints/step-5.ckpt: has no checkpoint step-5.ckpt; "),
        ([], "resume="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_continuation_that_is_refused_changes_nothing(
    more: list[str], line: str, tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and a plain resume works as before."""
    train(tiny())
    before = fingerprint(tmp_path / "run")
    capfd.readouterr()
    assert main(["train", "resume=run", *more]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1
    assert fingerprint(tmp_path / "run") == before
    assert resumed(tmp_path / "run", "budget.steps=7")["steps"] == 7


def test_a_run_that_is_running_is_not_touched(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another resume, the same line by a queue, and a new run of its directory."""
    train(tiny(*RUN))
    RunDir(tmp_path / "run").write_summary({"status": "running"})
    lock, before = RunDir(tmp_path / "run").hold(), fingerprint(tmp_path / "run")
    ask = [*tiny_overrides(f"[{tmp_path}/texts/*.txt]"), *RUN, f"run_dir={tmp_path}/run"]
    for line, why in (
        (["resume=run", "budget.steps=20"], "is still running; stop it first"),
        ([*ask, "resume=auto"], "is still running; stop it first"),
        (ask, "holds a run already"),
    ):
        capfd.readouterr()
        assert main(["train", *line]) == 2
        said = capfd.readouterr().err
        assert why in said and said.count("\n") == 1
        assert fingerprint(tmp_path / "run") == before
    lock.release()


def test_two_runs_of_one_new_directory(tiny: Tiny, tmp_path: Path) -> None:
    """The second to come is refused also while the first has not written anything yet."""
    lock = RunDir(tmp_path / "run").hold()
    with pytest.raises(UserError, match=r"^run_dir=.+run: is still running"):
        train(tiny())
    lock.release()
    assert not (tmp_path / "run/config.yaml").exists()


@pytest.mark.slow
def test_the_same_line_again_and_again(texts: str, tmp_path: Path) -> None:
    """`resume=auto`, killed before anything was written, in the middle of that, and before the first checkpoint."""
    ask = [*tiny_overrides(texts), *RUN, "logger=csv"]

    def line(folder: str) -> None:
        train(compose("train", [*ask, f"run_dir={folder}", "resume=auto"]))

    assert in_fork(lambda: line("whole")) == (0, "")
    for name in ("training batch", "log", "checkpoint"):
        assert signalled((f"before {name}", 1), signal.SIGKILL, lambda: line("run")) == -signal.SIGKILL
    assert in_fork(lambda: line("run")) == (0, "")
    assert same(Path("whole"), Path("run")) and rows(Path("whole")) == rows(Path("run"))
    for folders in (("empty",), ("lock", "checkpoints")):  # between the first folder and the first file
        Path(*folders).mkdir(parents=True)
        assert in_fork(lambda folder=folders[0]: line(folder)) == (0, "")
        assert same(Path("whole"), Path(folders[0]))


@pytest.mark.slow
def test_the_same_line_after_a_kill_while_it_begins(texts: str, some: Callable[[Any], Any]) -> None:
    """Each state of a directory until the first checkpoint; also with nothing but the line to tell the run by."""
    ask = [*tiny_overrides(texts), *RUN, "logger=csv"]

    def line(folder: str, *more: str) -> None:
        train(compose("train", [*ask, f"run_dir={folder}", *more]))

    states = left_by_kills(Path("whole"), lambda: line("whole", "resume=auto"))
    early = [(name, state) for name, state in states if not list(state.glob("checkpoints/*.ckpt"))]
    assert len(early) > 8
    for name, state in some(early):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree(state, "run")
        assert in_fork(lambda: line("run", "resume=auto")) == (0, ""), name
        assert same(Path("whole"), Path("run")) and rows(Path("whole")) == rows(Path("run")), name


def test_auto_finds_a_run_whose_name_has_folders(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = [*tiny_overrides(texts), "name=a/b", "resume=auto", "checkpoint.every_n_steps=2"]

    def line() -> None:
        train(compose("train", ask))

    assert signalled(("before training batch", 4), signal.SIGKILL, line) == -signal.SIGKILL
    assert in_fork(line) == (0, "")
    (summary,) = Path("outputs").rglob("summary.json")
    assert json.loads(summary.read_text())["status"] == "finished" and summary.parent.name == "b"


def test_auto_passes_over_damaged_runs(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "outputs/day" / name).mkdir(parents=True)
    (tmp_path / "outputs/day/a/config.yaml").write_text("a: [")
    (tmp_path / "outputs/day/b/config.yaml").write_text("a: 1")
    (tmp_path / "outputs/day/b/summary.json").write_text("{")
    summary = train(tiny("resume=auto", "run_dir=outputs/day/new", "budget.steps=2"))
    assert summary is not None and summary["run_dir"].endswith("new")


@pytest.mark.slow
def test_a_run_from_another_run_begins_again(tiny: Tiny, texts: str, tmp_path: Path) -> None:
    """Killed before its first checkpoint it has the weights that it began with, not new ones."""
    train(tiny(f"run_dir={tmp_path}/first", "budget.steps=2"))

    def second(folder: str) -> None:
        train(tiny(f"run_dir={folder}", "init_from=first", "budget.steps=3"))

    assert in_fork(lambda: second("whole")) == (0, "")
    assert signalled(("before training batch", 2), signal.SIGKILL, lambda: second("run")) == -signal.SIGKILL
    assert resumed(Path("run"))["steps"] == 3
    assert same(Path("whole"), Path("run"))


@pytest.mark.slow
def test_a_branch_begins_whole(tiny: Tiny, texts: str, tmp_path: Path) -> None:
    """Killed before its first checkpoint a branch goes on from that of the run it comes from."""
    train(tiny(*RUN, "schedule=constant", "budget.steps=6", f"run_dir={tmp_path}/stem"))

    def branch(folder: str) -> None:
        stem = "resume=stem/checkpoints/step-3.ckpt"
        train(compose("train", [stem, f"run_dir={folder}", "budget.steps=5", "optimizer.lr=0.02"], run="stem"))

    assert in_fork(lambda: branch("whole")) == (0, "")
    assert signalled(("before training batch", 2), signal.SIGKILL, lambda: branch("run")) == -signal.SIGKILL
    assert resumed(Path("run"))["steps"] == 5
    assert same(Path("whole"), Path("run")) and rows(Path("whole")) == rows(Path("run"))
    assert Path("whole/samples.md").read_text() == Path("run/samples.md").read_text()


@pytest.mark.slow
def test_own_text_is_continued_from_its_own_held_out_documents(tiny: Tiny, texts: str, tmp_path: Path) -> None:
    """The prompts are recorded: a resumed run has the same, even when its text looks otherwise by then."""
    train(tiny("sample_prompts=null", "schedule=constant"))
    config = RunDir(tmp_path / "run").config()
    held_out = decoded_documents(tmp_path / "run/held_out")
    prompts = config["sample_prompts"]
    assert len(prompts) == 2 and all(any(text.startswith(prompt) for text in held_out) for prompt in prompts)
    resumed(tmp_path / "run", "budget.steps=9")
    assert RunDir(tmp_path / "run").config()["sample_prompts"] == prompts
    assert [sample.prompt for sample in read_samples(tmp_path / "run")] == 3 * prompts


def decoded_documents(folder: Path) -> list[str]:
    """Return the held-out documents of a run as texts, by the bytes in its file: 256 begins a document."""
    ids = np.fromfile(folder / "val.bin", np.uint16)
    ends = [*np.flatnonzero(ids == 256), len(ids)]
    return [bytes(ids[a + 1 : b].astype(np.uint8)).decode() for a, b in itertools.pairwise(ends)]


def test_prompts_that_are_given_win_and_those_of_the_bundled_text_stay(tiny: Tiny) -> None:
    unread: Any = None
    assert sample_prompts(tiny("sample_prompts=[]"), unread) == []
    assert sample_prompts(tiny("sample_prompts=[a b]"), unread) == ["a b"]
    data: Any = SimpleNamespace(source=None, corpus=object())
    assert sample_prompts(TrainConfig(), data) == ["The function returns", "A class is"]


def test_a_run_is_named_after_the_one_that_it_begins_with(make_run: Callable[..., Path]) -> None:
    def named(*overrides: str) -> str:
        config = compose("train", list(overrides))
        assert str(config.run_dir).endswith(f"-{config.name}")
        return config.name

    made = {
        "first": make_run("first", name="a/small one"),
        "second": make_run("second", name="from-small_one"),
        "third": make_run("third", name=None, imported_from="gpt2-owner/gpt2.xl"),
    }
    for path in made.values():
        (path / "checkpoints").mkdir()
        (path / "checkpoints/last.ckpt").touch()
    assert named("model=micro") == "micro"
    assert named(f"init_from={made['first']}", "model=micro") == "from-small_one"
    assert named(f"init_from={made['second']}/checkpoints/last.ckpt") == "from-small_one"
    assert named(f"init_from={made['third']}") == "from-gpt2.xl"
    assert named(f"init_from={made['first']}", "name=mine") == "mine"
    Path("HF/gpt2-xl").mkdir(parents=True)
    assert named("init_from=HF/gpt2-xl/") == "from-gpt2-xl"  # Hugging Face's, which is imported when it begins
    assert named("init_from=none") == "nano"  # refused when it begins
