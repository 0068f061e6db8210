"""Standard output that is closed, full, or has few letters; a reader that leaves. Each is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.commands.streams import Output, standard_streams
from tests.faults.scratch import Scratch

GPTLAB = f"{sys.executable} -m gptlab"
SRC = str(Path(__file__).resolve().parents[2] / "src")


def shell(line: str, scratch: Scratch, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SRC, "GPTLAB_CACHE": str(scratch.cache), **env}
    command = ["bash", "-c", f"set -o pipefail; {line}"]
    return subprocess.run(
        command, cwd=scratch.path, env=environment, capture_output=True, text=True, errors="replace", timeout=180
    )


@pytest.mark.parametrize("verb", ["--help", "train --help", "train --cfg job"])
@pytest.mark.parametrize("reader", ["true", "head -c 1"])
def test_a_reader_that_leaves(verb: str, reader: str, scratch: Scratch) -> None:
    done = shell(f"{{ {GPTLAB} {verb}; echo code $? >&2; }} | {reader}", scratch)
    assert done.stderr == "code 0\n"


def test_a_reader_that_leaves_takes_nothing_with_it(scratch: Scratch) -> None:
    """The command does its work to the end, also where it shows what it does as it goes."""
    line = f"{GPTLAB} sample run=run 'prompt=the cat' max_new_tokens=20 num_samples=2"
    for how in ("| true", "json=true | true"):
        done = shell(f"{{ {line} {how.partition('|')[0]}; echo code $? >&2; }} | true", scratch)
        assert done.stderr.splitlines()[-1] == "code 0" and "Traceback" not in done.stderr
        assert "Broken" not in done.stderr and "Exception" not in done.stderr


def test_errors_that_nobody_reads(scratch: Scratch) -> None:
    done = shell(f"{{ {GPTLAB} sample run=none; echo code $? >&3; }} 3>&1 2>&1 >/dev/null | true", scratch)
    assert done.stderr == ""


def test_standard_output_on_a_full_disk(scratch: Scratch) -> None:
    done = shell(f"{GPTLAB} --help > /dev/full", scratch)
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written (No space left on device)\n"


def test_standard_output_that_is_closed(scratch: Scratch) -> None:
    for line in (
        f"{GPTLAB} --help >&-",
        f"{GPTLAB} sample run=none >&- json=true",
        f"{GPTLAB} sample run=none >&- 2>&-",
    ):
        done = shell(line, scratch)
        assert done.returncode == (0 if "help" in line else 2)
        assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_a_locale_with_few_letters(utf8: str, scratch: Scratch) -> None:
    """LC_ALL=C, as cron and containers have it; with PYTHONUTF8=0 text is ASCII, as in other old locales."""
    env = {"LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    done = shell(f"{GPTLAB} sample run=run prompt=größe max_new_tokens=3 num_samples=2", scratch, **env)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    refused = shell(f"{GPTLAB} sample run=größe", scratch, **env)
    assert refused.returncode == 2 and refused.stderr.startswith("error: run=gr")


def test_what_is_dropped(tmp_path: Path) -> None:
    """A stream that fails once is written to no more, and says why it failed unless its reader has left."""

    class Failing:
        errors = "strict"

        def __init__(self, error: OSError) -> None:
            self.error, self.file = error, (tmp_path / "out").open("w")

        def write(self, text: str) -> int:
            raise self.error

        def fileno(self) -> int:
            return self.file.fileno()

    for error, failure in ((BrokenPipeError(32, "Broken pipe"), None), (OSError(28, "No space left"), "No space left")):
        out = Output(Failing(error))  # type: ignore[arg-type]
        assert out.write("abc") == 3 and out.failure == failure
        assert os.readlink(f"/proc/self/fd/{out.fileno()}") == os.devnull


def test_the_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr, sys.stdout.errors
    with standard_streams() as output:
        assert sys.stdout is output
        print("a\udcff")
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
