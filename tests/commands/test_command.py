"""What a verb answers: JSON when asked, exit codes, help; tests/faults/test_mistakes.py has the mistakes."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import gptlab
from gptlab import registry
from gptlab.commands.main import main
from gptlab.decoding.decoders import Decoder, TopK
from tests.conftest import tiny_overrides


def test_a_mistake_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "run=none", "json=true"]) == 2
    assert json.loads(capfd.readouterr().out)["error"].startswith("run=none: no such directory")


def test_an_old_run_is_never_written_over(texts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "summary.json").write_text("precious")
    for how in (f"run_dir={old}", f"hydra.run.dir={old}"):
        assert main(["train", *tiny_overrides(texts), how]) == 2
        assert "holds a run already" in capfd.readouterr().err
    assert [p.name for p in old.iterdir()] == ["summary.json"] and (old / "summary.json").read_text() == "precious"


def test_a_failure_is_not_a_mistake(
    texts: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("gptlab.training.module.GPTModule.training_step", broken)
    assert main(["train", *tiny_overrides(texts), "json=true"]) == 1
    out, err = capfd.readouterr()
    assert json.loads(out) == {"error": "RuntimeError: the disk is on fire"}
    assert "Traceback" in err


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "gptlab evaluate" in capfd.readouterr().out
    assert main(["train", "--help"]) == 0
    out = capfd.readouterr().out
    for word in ("model", "nano", "xl", "top_p", "budget", "shakespeare_char", "--cfg job"):
        assert word in out


def test_cfg_job_shows_the_composed_config(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "model=small", "--cfg", "job"]) == 0
    out = capfd.readouterr().out
    assert "n_embd: 768" in out and "weight_decay: 0.1" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [
        ["evaluate", "run=none"],
        ["sample", "run=none"],
        ["sample", "-m", "decoder=greedy,sample", "run=none"],
        ["report", "runs=none"],
        ["train", "--cfg", "job"],
        ["train", "model=huge"],
        ["train", "resume=none"],
        ["train", "-m", "model=nano,huge"],
        ["check", "model.n_head=7"],
    ],
    ids=" ".join,
)
def test_nothing_is_made_and_nothing_is_removed(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regression test: `evaluate` in an empty folder removed that folder, and the one above."""
    folder = tmp_path / "x/y"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    main(argv)
    assert folder.is_dir() and not list(folder.iterdir())


@pytest.mark.parametrize(("number", "code"), [(None, 1), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), ("none", 130)])
def test_the_exit_code_tells_what_stopped_it(number: Any, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(KeyboardInterrupt):
        signal_number = number

    def stop(config: object) -> None:
        raise KeyboardInterrupt if number == "none" else Stopped

    monkeypatch.setattr("gptlab.training.run.train", stop)
    assert main(["train"]) == code


def test_every_verb_is_found_by_its_file() -> None:
    found = registry.verbs()
    files = Path(registry.__file__).parent.glob("commands/*.py")
    assert set(found) == {f.stem.removesuffix("_") for f in files if "@command" in f.read_text()} and len(found) >= 11
    for name, line in found.items():
        command = registry.find_command(name)
        assert line and line[0].islower() and "\n" not in line
        assert dataclasses.is_dataclass(command.config_type) and command.function.__doc__
        assert command.function.__doc__[1:].startswith(line[1:])


def test_a_verb_of_another_package(capfd: pytest.CaptureFixture[str]) -> None:
    @gptlab.command
    def greet_(config: Greeting) -> dict[str, Any]:
        """Say a word. And no more."""
        return {"said": config.word * config.times, "decoder": type(config.decoder).__name__}

    try:
        assert registry.verbs()["greet"] == "say a word"
        assert main(["greet", "word=Größe (1)", "decoder=top_p", "json=true"]) == 0
        assert json.loads(capfd.readouterr().out) == {"said": "Größe (1)", "decoder": "TopP"}
        assert main(["greet", "times=x"]) == 2
        assert "times=x: Value 'x' of type 'str' could not be converted to Integer" in capfd.readouterr().err
        assert main(["greet", "--help"]) == 0
        assert "word = hello" in capfd.readouterr().out
    finally:
        del registry._COMMANDS["greet"]


@dataclasses.dataclass
class Greeting:
    """The config of a verb in another package."""

    word: str = "hello"
    times: int = 1
    decoder: Decoder = dataclasses.field(default_factory=TopK)
    json: bool = False


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="decoder=top_k is registered by gptlab.decoding.decoders.TopK already"):
        gptlab.option("decoder", "top_k")(Greeting)

    def sample(config: Greeting) -> None: ...

    registry.find_command("sample")
    with pytest.raises(ValueError, match="the verb sample is registered by gptlab.commands.sample already"):
        gptlab.command(sample)
