"""A directory with one of everything that a command can be asked about, and commands that are run in it."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gptlab.commands.main import main
from tests.alarms import ended_after
from tests.conftest import tiny_overrides, write_texts

SECONDS = 180  # after which a command hangs


class Hangs(BaseException):
    """A command has not come to an end; nothing catches it."""


@dataclass(frozen=True)
class Answer:
    """What a command has answered."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of standard error that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def is_clean(self) -> bool:
        """Whether it is an answer of ours: no traceback, nothing of another library."""
        return not re.search(r"Traceback|^Usage|^usage|Exception ignored|During handling", self.err + self.out, re.M)


@dataclass(frozen=True)
class Scratch:
    """A working directory: texts/, run/ (trained), exported/ (run as Hugging Face has it), and odd things."""

    path: Path
    cache: Path

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Work in it; a command that hangs ends."""
        late = ended_after(SECONDS, Hangs())
        with late, contextlib.chdir(self.path), pytest.MonkeyPatch.context() as patch:
            patch.setenv("GPTLAB_CACHE", str(self.cache))
            patch.delenv("GPTLAB_RUN_DIR", raising=False)
            yield

    def tree(self) -> dict[str, tuple[int, int, str]]:
        """Return every path with its size, time of change, and where it points if it is a link."""
        found = {}
        for folder, names, files in os.walk(self.path):
            for name in [*names, *files]:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
                time = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
                link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
                found[os.path.relpath(path, self.path)] = (size, time, link)
        return found


def asked(argv: list[str], capfd: pytest.CaptureFixture[str]) -> Answer:
    """Run a command in this process."""
    capfd.readouterr()
    try:
        code = main(argv)
    except SystemExit as error:
        code = int(error.code or 0)
    return Answer(code, *capfd.readouterr())


def made(folder: Path) -> Scratch:
    """Make the directory, and train a run of a second in it."""
    scratch = Scratch(folder / "work", folder / "cache")
    scratch.path.mkdir()
    with scratch.entered():
        write_texts(Path("texts"))
        assert main(["train", *tiny(), "run_dir=run", "decoder=greedy"]) == 0
        assert main(["export", "run=run", "out=exported"]) == 0
        Path("outputs/latest").unlink()
        Path("outputs").rmdir()
        (np.arange(4000, dtype=np.uint16) % 256).tofile("tokens.bin")
        (np.arange(2000, dtype=np.uint16) * 7 % 256).tofile("held.bin")
        Path("empty.txt").touch()
        Path("latin1.txt").write_bytes("abcé".encode("latin-1"))
        Path("file").write_text("a file")
        Path("one.csv").write_text("text,label\n" + "".join(f"text {i},ham\n" for i in range(30)))
        Path("row.csv").write_text('text,label\na,ham\n"b,spam\n')
        Path("dangling").symlink_to("nowhere")
        Path("broken.yaml").write_text("a: [")
        pair = '{"prompt": "a", "chosen": "b", "rejected": "%s"}\n'
        Path("pairs.jsonl").write_text(pair % "c" + pair % "b")
        Path("talk.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
        Path("bot.jsonl").write_text('{"conversations": [{"from": "bot", "value": "b"}]}\n')
        Path("conf").mkdir()
        Path("conf/broken.yaml").write_text("a: [")
        Path("conf/list.yaml").write_text("[1, 2]")
        Path("conf/bare.yaml").write_text("model: {n_layer: 1}")
        Path("sweep").mkdir()
        Path("sweep/sweep.json").write_text("{")
    return scratch


def tiny() -> list[str]:
    """Return the overrides of a run of a second."""
    return tiny_overrides("[texts/*.txt]")
