"""A small run that each test may damage, and what every refusal has in common."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.training.run import train
from tests.alarms import ended_after
from tests.conftest import tiny_overrides, working_in, write_texts
from tests.faults.instants import make_runs_quick
from tests.faults.scratch import Scratch, made

Ask = Callable[..., int]


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """A test that waits for a pipe ends after a while."""
    with ended_after(400, TimeoutError("it hangs")):
        yield


@pytest.fixture(autouse=True)
def _runs_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_runs_quick(monkeypatch)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps and its texts."""
    folder = tmp_path_factory.mktemp("trained")
    with working_in(folder):
        write_texts(folder / "texts")
        ask = [*tiny_overrides("[texts/*.txt]"), "run_dir=run", "budget.steps=2", "logger=csv"]
        train(compose("train", [*ask, "trainer.val_every_n_steps=2", "logger.every_n_steps=1"]))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, as `run` in the working directory, beside its texts and a second one, `other`."""
    for name, source in {"run": "run", "other": "run", "texts": "texts", "cache": "cache"}.items():
        shutil.copytree(trained / source, tmp_path / name, dirs_exist_ok=True)
    return tmp_path / "run"


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run a command: ask(*argv) returns its exit code, 0 or 2, after it has checked what the command said.

    That is nothing but warnings, or one line that says what is wrong; never a traceback.
    """

    def ask(*argv: str, codes: tuple[int, ...] = (0, 2)) -> int:
        capfd.readouterr()
        code = main(list(argv))
        err = capfd.readouterr().err
        lines = [line for line in err.splitlines() if not line.startswith(("warning: ", "run/", "evil/", "/"))]
        assert "Traceback" not in err and code in codes, f"{argv}: exit {code}\n{err}"
        if code == 2:
            assert len(lines) == 1 and lines[0].startswith("error: "), f"{argv}:\n{err}"
        else:
            assert lines == [], f"{argv}:\n{err}"
        return code

    return ask


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A working directory in which commands meet mistakes: none of them changes it."""
    return made(tmp_path_factory.mktemp("mistakes"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out of the quick loop, `-m "not slow"`, what makes many small tries: it is as long as all else together."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
