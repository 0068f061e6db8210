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

import torch.distributed.run
from hydra.core.global_hydra import GlobalHydra
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from gptlab.commands.main import main
from gptlab.errors import Stopped

Done = CompletedProcess[str]
GPTLAB, TORCHRUN = (str(Path(sys.executable).with_name(name)) for name in ("gptlab", "torchrun"))
PROGRAMS = {"gptlab": GPTLAB, "torch.distributed.run": TORCHRUN}  # by the module that is one
MODULES = os.environ.get("PYTHONPATH")  # where this process found what it has imported


def gptlab(*argv: str, cwd: Path | None = None, code: int = 0) -> Done:
    """Run a command as `gptlab ...` in a child; its exit code must be `code`.

    The child has this process's imports and environment, and standard input is closed. What the command itself starts,
    such as the jobs of a sweep or the second rank of two, are children of the same kind, but in tests that are marked
    by `new_processes`.
    """
    done = _in_child(GPTLAB, argv, lambda: main(list(argv)), cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def script(path: Path, *argv: str) -> Done:
    """Run a Python script in a child as `gptlab` runs a command; it must not fail."""
    done = _in_child(str(path), argv, lambda: _run(str(path), argv), None)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _run(program: str, argv: Sequence[str]) -> int:
    if program == GPTLAB:
        return main(list(argv))
    if program == TORCHRUN:
        subprocess_handler.Popen = subprocess.Popen  # type: ignore[misc]
        torch.distributed.run.main(argv)
    elif program == "-c":
        exec(argv[0], {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    return 0


def _in_child(program: str, argv: Sequence[str], work: Callable[[], int], cwd: Path | None) -> Done:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
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
        for number in map(int, os.listdir("/dev/fd")):
            if number not in (0, 1, 2, nowhere) and os.path.exists(f"/dev/fd/{number}"):
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
        asked = self._asked(args, env=rest[5])
        if asked is None:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        _, preexec, _, _, cwd, env, _, _, _, stdin, to_stdin, from_stdout, stdout, from_stderr, stderr, *more = rest
        program, argv = asked
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
            rank_zero_only.rank = _get_rank() or 0
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
            streams = {number: file for number, file in enumerate((stdin, stdout, stderr)) if file != -1}
            _be(program, argv, lambda: _run(program, argv), cwd, streams)
        self._child_created = True
        nowhere = getattr(self, "_devnull", None)
        for ours, other in ((stdin, to_stdin), (stdout, from_stdout), (stderr, from_stderr)):
            if -1 not in (ours, other) and ours != nowhere:
                os.close(ours)
        if nowhere is not None:
            os.close(nowhere)
        self._closed_child_pipe_fds = True

    @staticmethod
    def _asked(args: Any, env: Any) -> tuple[str, list[str]] | None:
        """Return the program, which is gptlab, torchrun or a script, and its arguments; None if it is another."""
        if isinstance(args, str) or (os.environ if env is None else env).get("PYTHONPATH") != MODULES:
            return None
        words = list(map(str, args))
        if words[0] == sys.executable:
            words = words[2:] if words[1] == "-u" else words[1:]
            if words[0] == "-m" and words[1] in PROGRAMS:
                words = [PROGRAMS[words[1]], *words[2:]]
        program, *argv = words
        ours = program in PROGRAMS.values() or program.endswith(".py") or (program == "-c" and Child.codes)
        return (program, argv) if ours else None


def pytest_configure() -> None:
    """Start all commands of another project's tests as forks, by `pytest -p tests.forked`."""
    subprocess.Popen = Child  # type: ignore[misc]


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
