"""Do work in a child of this process, which has imported everything: a command then starts in no time."""

import io
import os
import runpy
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from gptlab.commands.main import main
from gptlab.errors import Stopped

Done = CompletedProcess[str]


def gptlab(*argv: str, cwd: Path | None = None, code: int = 0) -> Done:
    """Run a command as `gptlab ...` in a child; its exit code must be `code`.

    The child has this process's imports and environment, and standard input is closed. What the command itself starts,
    such as the jobs of a sweep or the second rank of two, are processes as users have them.
    """
    return _in_child(str(Path(sys.executable).with_name("gptlab")), argv, lambda: main(list(argv)), cwd, code)


def script(path: Path, *argv: str) -> Done:
    """Run a Python script in a child as `gptlab` runs a command; it must not fail."""

    def work() -> int:
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")
        return 0

    return _in_child(str(path), argv, work, None, 0)


def _in_child(program: str, argv: Sequence[str], work: Callable[[], int], cwd: Path | None, code: int) -> Done:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            failed = 70
            try:
                for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno())):
                    os.dup2(file, number)
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w") for n in range(3))
                sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.chdir(cwd or Path.cwd())
                sys.argv = [program, *argv]
                sys.modules["__main__"].__spec__ = None  # Lightning starts more ranks by this, or else by argv
                failed = work()
            except SystemExit as end:
                failed = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(failed)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        done = Done(argv, os.waitstatus_to_exitcode(status), out.read(), err.read())
    assert done.returncode == code, done.stdout + done.stderr
    return done


def in_fork(work: Callable[[], Any]) -> tuple[int, str]:
    """Do `work` in a child; returns its exit code, negative where a signal killed it, and its error.

    The code is 128+n where signal n has stopped a run, and 70 after any error.
    """
    log = Path("child.log").absolute()
    log.write_text("")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code, error = 0, ""
        try:
            sys.stdout = sys.stderr = io.StringIO()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup,
            signal.signal(signal.SIGINT, signal.default_int_handler)  # or in the background of a shell
            work()
        except Stopped as stop:
            code = 128 + (stop.signal_number or 0)
        except KeyboardInterrupt:  # outside of training
            code = 128 + signal.SIGINT
        except BaseException:
            code, error = 70, traceback.format_exc()
        finally:
            log.write_text(error)
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text()
