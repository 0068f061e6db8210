"""Do work in a child of this process, which has imported everything: a command then starts in no time."""

import atexit
import io
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch
from hydra.core.global_hydra import GlobalHydra
from lightning_utilities.core.rank_zero import rank_zero_only

from gptlab.commands.main import main
from gptlab.errors import Stopped

Done = CompletedProcess[str]
GPTLAB = str(Path(sys.executable).with_name("gptlab"))
MODULES = os.environ.get("PYTHONPATH")  # where this process found what it has imported


def gptlab(*argv: str, cwd: Path | None = None, code: int = 0) -> Done:
    """Run a command as `gptlab ...` in a child; its exit code must be `code`.

    The child has this process's imports and environment, and standard input is closed. What the command itself starts,
    such as the jobs of a sweep or the second rank of two, are children of the same kind.
    """
    done = _in_child(GPTLAB, argv, lambda: main(list(argv)), cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def script(path: Path, *argv: str) -> Done:
    """Run a Python script in a child as `gptlab` runs a command; it must not fail."""
    done = _in_child(str(path), argv, lambda: _run(path), None)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _run(path: Path) -> int:
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")
    return 0


def _do(program: str, argv: list[str]) -> int:
    if program == GPTLAB:
        return main(argv)
    if program == "-c":
        exec(argv[0], {"__name__": "__main__"})
        return 0
    return _run(Path(program))


def _in_child(program: str, argv: Sequence[str], work: Callable[[], int], cwd: Path | None) -> Done:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            subprocess.Popen = Child  # type: ignore[misc]
            streams = {0: os.open(os.devnull, os.O_RDONLY), 1: out.fileno(), 2: err.fileno()}
            _be(program, argv, work, cwd, streams)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return Done(argv, os.waitstatus_to_exitcode(status), out.read(), err.read())


def _be(
    program: str, argv: Sequence[str], work: Callable[[], int], cwd: object, streams: dict[int, int]
) -> None:  # never returns
    """Do work as a new process would that has these standard streams, and end."""
    code = 1
    try:
        for number, copy in {number: os.dup(file) for number, file in streams.items()}.items():
            os.dup2(copy, number)
        # pipes of other children must end with their own processes; numbers stay taken, for the files of this one
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in (0, 1, 2, nowhere) and os.path.exists(f"/proc/self/fd/{number}"):
                os.dup2(nowhere, number, inheritable=False)
        sys.stdin, sys.stdout = os.fdopen(0, "r", closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
            if signal.getsignal(number) is not None:
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        atexit._clear()
        logging.root.handlers.clear()
        GlobalHydra.instance().clear()
        os.chdir(cwd or ".")  # type: ignore[arg-type]
        sys.argv = [program, *argv]
        sys.modules["__main__"].__spec__ = None  # Lightning starts more ranks by this, or else by argv
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Child(subprocess.Popen):  # type: ignore[type-arg]
    """A process that is a fork of this one, where the command is gptlab's or a script of this Python; else a new one.

    All that a caller does with it is as with any other: its pipes, signals, session and exit code.
    """

    codes = False  # whether `python -c CODE` is a fork too: then what it imports is there already

    def _execute_child(self, args: Any, *rest: Any) -> None:
        work = self._work(args, env=rest[5])
        if work is None:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        _, preexec, _, _, cwd, env, _, _, _, stdin, to_stdin, from_stdout, stdout, from_stderr, stderr, *more = rest
        program, argv = work
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            if more[5]:  # start_new_session
                os.setsid()
            if preexec:
                preexec()
            if env is not None:
                os.environ.clear()
                os.environ.update(env)
            rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
            given = {0: stdin, 1: stdout, 2: stderr}
            _be(
                program,
                argv,
                lambda: _do(program, argv),
                cwd,
                {number: file for number, file in given.items() if file != -1},
            )
        self._child_created = True
        nowhere = getattr(self, "_devnull", None)
        for ours, other in ((stdin, to_stdin), (stdout, from_stdout), (stderr, from_stderr)):
            if -1 not in (ours, other) and ours != nowhere:
                os.close(ours)
        if nowhere is not None:
            os.close(nowhere)
        self._closed_child_pipe_fds = True

    @staticmethod
    def _work(args: Any, env: Any) -> tuple[str, list[str]] | None:
        """Return the program, which is gptlab or a script, and its arguments; None where it needs a new process."""
        if isinstance(args, str) or (os.environ if env is None else env).get("PYTHONPATH") != MODULES:
            return None
        words = list(map(str, args))
        if words[0] == sys.executable:
            words = [GPTLAB, *words[3:]] if words[1:3] == ["-m", "gptlab"] else words[1:]
        program, *argv = words or [""]
        ours = program == GPTLAB or program.endswith(".py") or (program == "-c" and Child.codes)
        return (program, argv) if ours else None


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
