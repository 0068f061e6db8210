"""Run one command: Hydra composes its config, mistakes become one line, results become a report or JSON.

Exit codes: 0, 1 (failed in mid-run), 2 (a mistake in what was asked), 128+n (stopped by signal n); a verb may answer by
others (`exit_code`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.text import Text
from yaml import YAMLError

from gptlab import registry
from gptlab.commands.flags import (
    by_config,
    flags_first,
    of_run,
    require_no_run_config,
    resumed,
    split_flags,
    without_cfg_job,
)
from gptlab.commands.mistakes import UNKNOWN, explain, in_our_words
from gptlab.commands.streams import Output
from gptlab.commands.usage import ASKS, usage
from gptlab.config.hydra_internals import run_command_line
from gptlab.config.logger_list import each_logger
from gptlab.config.overrides import quote_values, quoted
from gptlab.config.tree import compose, primary, search_path, takes_run_configs, typed_config
from gptlab.distributed.processes import ProcessGroup, place
from gptlab.errors import RunFailed, UserError, one_line, reason, require
from gptlab.files import conf_dir, strict_json
from gptlab.plugins import enable_all
from gptlab.runs.config_file import as_yaml, record
from gptlab.sweep.cluster import run_one
from gptlab.sweep.confirm import told
from gptlab.sweep.job import follow_the_sweep
from gptlab.sweep.sweep import Sweep, exit_code

MISTAKES = (UserError, HydraException, OmegaConfBaseException, YAMLError)
# what a name that was given makes of a system call; all else is the machine's fault
NAMES = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EACCES, errno.EPERM}


def run_command(verb: str, program: list[str], argv: list[str]) -> int:
    """Run a verb on the typed config that `argv` asks for, and return the exit code.

    `program` is the command line before `argv`.
    """
    if set(ASKS).intersection(argv):
        return show_help(verb, argv)
    as_json = any(re.fullmatch(r"\+{0,2}json=(true|yes|on|1)", arg, re.IGNORECASE) for arg in argv)
    processes = ProcessGroup(place() if verb == "train" else None)
    command = _Run(registry.find_command(verb), program, argv, processes)
    sweep = None
    if verb == "train":
        follow_the_sweep()
    if processes.rank:
        command.argv, code = processes.receive()
        if code is not None:
            return code
    else:
        try:
            sweep = command.prepare()
        except (*MISTAKES, OSError) as error:
            command.refused_by(error)
            processes.shutdown(command.code)
            if as_json:
                print(strict_json(command.answers[0]))
            return command.code
    with _standard_output_kept_for_json() if as_json else contextlib.nullcontext(sys.stdout) as out:
        command.run(sweep)
        answer = command.answer(sweep)
        if as_json and (command.answers or sweep) and processes.rank == 0:
            print(strict_json(answer), file=out)
    return command.code


def show_help(verb: str, argv: list[str]) -> int:
    """Print the help that a command line asks for; of a command line with a mistake, what is wrong beside the rest."""
    console, mistake = Console(), None
    text: Text | None
    width = console.width if console.is_terminal else 80
    try:
        text = usage(verb, argv, width)
    except (*MISTAKES, OSError) as error:
        mistake = one_line(explain(error, argv))
        of_help = isinstance(error, UserError) and error.key == "--help"
        text = None if of_help else usage(verb, ["--help"], width)
    if text is not None:
        console.print(text, soft_wrap=True)
    if mistake is not None:
        print(f"error: {mistake}", file=sys.stderr)
    return 0 if mistake is None else 2


@dataclass
class _Run:
    """One command: its verb, its overrides, and its state so far."""

    command: registry.Command
    program: list[str]
    argv: list[str]
    processes: ProcessGroup
    answers: list[dict[str, Any]] = field(default_factory=list)  # one per job
    confirmed: dict[str, Any] | None = None  # what came of a sweep's best config with fresh seeds
    code: int = 0

    def prepare(self) -> Sweep | None:
        """Name the run that a command line repeats or resumes by its config; returns the sweep if it names one."""
        self.argv = each_logger(flags_first(self.argv))
        if takes_run_configs(self.command.name):
            self.argv = flags_first(resumed(by_config(self.argv)))
            if "run" in {field.name for field in dataclasses.fields(self.command.config_type)}:
                self.argv = flags_first(of_run(self.argv))
        require_no_run_config(self.argv)
        if self.command.name != "train":
            return None
        if (sweep := Sweep.of(self.argv)) is not None:
            size = self.processes.size
            why = f"a sweep starts its jobs itself, and {size} processes are started"
            require(size == 1, "hydra.mode", "MULTIRUN", why, "start it without torchrun or srun")
            self.argv = sweep.argv
        elif asked := [arg for arg in self.argv if arg.startswith("confirm=") and arg != "confirm=0"]:
            value, todo = asked[-1].partition("=")[2], "add -m and several values of a key"
            raise UserError("confirm", value, "runs the best of a sweep again, and this is none", todo)
        return sweep

    def run(self, sweep: Sweep | None) -> None:
        """Compose one job, or those of a sweep, and do each of them."""
        try:
            with sweep.running() if sweep else contextlib.nullcontext():
                argv, shows = without_cfg_job(self.argv)
                flags, overrides = split_flags(argv)
                if flags is None:
                    self._run_by_hydra()
                else:
                    folder = Path(flags["dir"]) if "dir" in flags else None
                    config = compose(self.command.name, overrides, None, folder, flags.get("name"))
                    if shows:
                        print(as_yaml(record(config)), end="")
                    else:
                        self._do(config)
            for line in sweep.refused if sweep else ():
                self._say(line, code=2)
            self.confirmed = sweep.confirmed() if sweep else None
        except (*MISTAKES, OSError) as error:
            self.refused_by(error)
        except KeyboardInterrupt as error:
            number = getattr(error, "signal_number", signal.SIGINT)
            self._failed("stopped", 1 if number is None else 128 + number)
        except RunFailed as error:
            self._say(str(error))
        except Exception as error:  # also from a launcher: jobs that have ended are still reported
            self._crashed(error)
        finally:
            self.processes.shutdown(self.code)

    def _run_by_hydra(self) -> None:
        """Let Hydra sweep, show the config, or complete the line that is being typed."""
        name, argv = primary(self.command.name, self.argv)
        multirun = bool({"-m", "--multirun"}.intersection(argv))
        sys.argv = [self.program[0], *quote_values(argv, self.command.config_type, multirun)]
        if (presets := search_path()) and not any(arg.startswith("hydra.searchpath=") for arg in argv):
            sys.argv.append(presets)
        with contextlib.ExitStack() as stack:
            if multirun and self.command.name != "train":  # Hydra's own files of a sweep are not kept
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                sys.argv.append(f"hydra.sweep.dir={quoted(folder)}")
            run_command_line(str(conf_dir()), name, self._job)

    def _job(self, cfg: DictConfig) -> float | None:
        """Do one job of a sweep; if it fails, the others go on."""
        hydra_config = HydraConfig.get()
        enable_all([])  # the process of a cluster begins here
        if self.command.name == "train":  # only under another launcher than ours
            return run_one(hydra_config, cfg, self.command.function, explain)
        try:
            self._do(typed_config(cfg, hydra_config.runtime.output_dir), list(hydra_config.overrides.task))
        except (*MISTAKES, OSError) as error:
            self.refused_by(error)
        except RunFailed as error:
            self._say(str(error))
        except Exception as error:
            self._crashed(error)
        return None

    def _do(self, config: Any, overrides: list[str] | None = None) -> None:
        """Run the verb's function; the other processes of the same command compose the same config."""
        where = [f"run_dir={quoted(config.run_dir)}"] if getattr(config, "run_dir", None) else []
        if overrides is None:
            sys.argv = [*self.program, *self.argv, *where]  # Lightning starts the other ranks with it
            if self.processes.rank == 0 and self.processes.size > 1:
                self._require_new(config)
                self.processes.broadcast([*self.argv, *where])
        if (answer := self.command.function(config)) is not None:
            swept = overrides is not None and self.command.after_sweep is not None
            self.answers.append({**answer, "overrides": overrides} if swept else answer)
            if self.command.exit_code is not None:
                self.code = max(self.code, self.command.exit_code(answer))

    def _require_new(self, config: Any) -> None:
        """Refuse a directory that already holds a run, before the other ranks start and wait for rank 0 in vain."""
        if not config.resume:
            from gptlab.runs.run_dir import RunDir

            RunDir(Path(config.run_dir)).require_new()

    def answer(self, sweep: Sweep | None) -> dict[str, Any]:
        """Return the value that `json=true` prints: the answer of the one job, or of all."""
        done = [answer for answer in self.answers if "overrides" in answer]
        if self.command.after_sweep and done:
            self.answers.append(self.command.after_sweep(done))
        if sweep and (results := self._reported(sweep)):
            self.code = max(self.code, exit_code(results))
            more = {}
            if self.confirmed:
                print(told(self.confirmed))
                self.code = max(self.code, exit_code(self.confirmed["runs"]))
                more = {"confirmed": self.confirmed}
            return {"runs": results, **more, **(self.answers[0] if self.answers else {})}
        return self.answers[0] if len(self.answers) == 1 else {"runs": self.answers}

    def _reported(self, sweep: Sweep) -> list[dict[str, Any]]:
        """Return the results of a sweep, of which a table is printed; none where a job's files are damaged."""
        try:
            if results := sweep.results():
                sweep.report(results)
            return results
        except UserError as error:
            if not self.answers:  # else the sweep has ended by it already
                self.refused_by(error)
            return []

    def refused_by(self, error: Exception) -> None:
        """Print a mistake in what was asked, or what this machine did not let the command do."""
        if isinstance(error, OSError) and not isinstance(error, MISTAKES):  # one of Hydra's is both
            about_a_name = error.errno in NAMES
            where = f"{error.filename}: " if error.filename else ""
            self._say(f"{where}{error.strerror or reason(error)}", code=2 if about_a_name else 1)
        else:
            line = explain(error, self.argv)
            if not isinstance(error, UserError) or error.why.startswith(UNKNOWN):
                line = in_our_words(line, self.command.name, self.argv, error)
            self._say(line, code=2)

    def _say(self, line: str, code: int = 1) -> None:
        """Print and note in one line what has ended the command, or one of its jobs."""
        line = one_line(line)
        told = any(answer.get("error") == line for answer in self.answers)  # of another job
        if not told and self.processes.prints(line):
            print(f"error: {line}", file=sys.stderr)
        self._failed(line, code)

    def _crashed(self, error: Exception) -> None:
        """Print the traceback of an unexpected error."""
        traceback.print_exc()
        self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, why: str, code: int = 1) -> None:
        self.answers.append({"error": why})
        self.code = max(self.code, code)


@contextlib.contextmanager
def _standard_output_kept_for_json() -> Iterator[Any]:
    """Redirect all other output to standard error, child processes included, and yield the real standard output."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as file:
        out = Output(file)
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield out
        finally:
            sys.stdout.flush()
            out.flush()
            os.dup2(out.fileno(), 1)
