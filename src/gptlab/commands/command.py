"""The way in for every verb: Hydra composes, mistakes become one line, results become a report or JSON.

Exit codes: 0, 1 (failed in mid-run), 2 (a mistake in what was asked).
"""

import contextlib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlab.commands.mistakes import explain, usage
from gptlab.config.overrides import quote_values
from gptlab.config.tree import conf_dir, register, to_typed
from gptlab.distributed.processes import ProcessGroup, place
from gptlab.errors import RunFailed, UserError, require
from gptlab.sweep.cluster import run_one
from gptlab.sweep.job import follow_the_sweep
from gptlab.sweep.sweep import Sweep, exit_code

Work = Callable[[Any], dict[str, Any] | None]
AfterSweep = Callable[[list[dict[str, Any]]], dict[str, Any]]


def open_door(verb: str, work: Work, program: list[str], argv: list[str], after_sweep: AfterSweep | None = None) -> int:
    """Run `work` on the typed config that `argv` asks of `verb`; `program` is the command line before `argv`.

    `work` returns what `json=true` prints, or None in a process that is not the one to speak. `after_sweep` makes one
    result of those of a sweep, each with the `overrides` of its job.
    """
    if {"-h", "--help"}.intersection(argv):
        print(usage(verb))
        return 0
    as_json = any(re.fullmatch(r"\+{0,2}json=(true|yes|on|1)", arg, re.IGNORECASE) for arg in argv)
    crew = ProcessGroup(place() if verb == "train" else None)
    command = _Command(verb, work, program, argv, after_sweep, crew)
    sweep = None
    if verb == "train":
        follow_the_sweep()
    if crew.rank:
        command.argv, code = crew.orders()
        if code is not None:
            return code
    elif verb == "train":
        try:
            command.argv, sweep = _runs_asked_for(argv, crew)
        except UserError as error:
            command.mistake(error)
            crew.dismiss(2)
            if as_json:
                print(json.dumps(command.answers[0]))
            return 2
    with _standard_output_kept_for_json() if as_json else contextlib.nullcontext(sys.stdout) as out:
        command.run(sweep)
        answer = command.answer(sweep)
        if as_json and (command.answers or sweep) and crew.rank == 0:
            print(json.dumps(answer), file=out)
    return command.code


@dataclass
class _Command:
    """One command: what it asks, who does it, and what has become of it so far."""

    verb: str
    work: Work
    program: list[str]
    argv: list[str]
    after_sweep: AfterSweep | None
    crew: ProcessGroup
    answers: list[dict[str, Any]] = field(default_factory=list)  # one a job
    code: int = 0

    def run(self, sweep: Sweep | None) -> None:
        """Hydra composes one job, or those of a sweep; each is done and answered."""
        register()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
        sys.argv = [self.program[0], *quote_values(self.argv)]
        hydra_main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=self.verb)(self._job)
        try:
            with sweep.running() if sweep else contextlib.nullcontext():
                hydra_main()
        except (UserError, HydraException, OmegaConfBaseException) as error:
            self.mistake(error)
        except KeyboardInterrupt:
            self._failed("stopped")
        except Exception as error:  # of a launcher: the jobs that have ended are still told
            self._crashed(error)
        finally:
            self.crew.dismiss(self.code)

    def _job(self, cfg: DictConfig) -> float | None:
        """One job; a sweep goes on with the others whatever becomes of it."""
        hydra_config = HydraConfig.get()
        # Lightning starts the other ranks by this line: the one job, never the whole sweep
        sys.argv = [*self.program, *_config_flags(self.argv), *hydra_config.overrides.task]
        if hydra_config.mode == RunMode.MULTIRUN and self.verb == "train":
            return run_one(hydra_config, cfg, self.work)  # unless our launcher has it
        try:
            config = to_typed(cfg, hydra_config.runtime.output_dir)
            self._lead(config, hydra_config)
            if (answer := self.work(config)) is not None:
                swept = hydra_config.mode == RunMode.MULTIRUN and self.after_sweep is not None
                overrides = {"overrides": list(hydra_config.overrides.task)} if swept else {}
                self.answers.append({**answer, **overrides})
        except (UserError, OmegaConfBaseException) as error:
            self.mistake(error)
        except RunFailed as error:
            if self.crew.speaks_of(str(error)):
                print(f"error: {error}", file=sys.stderr)
            self._failed(str(error))
        except Exception as error:
            self._crashed(error)
        finally:
            _remove_if_empty(Path(hydra_config.runtime.output_dir))
        return None

    def _lead(self, config: Any, hydra_config: HydraConf) -> None:
        """Let the other processes of torchrun or srun compose the same."""
        if self.crew.rank == 0 and self.crew.size > 1 and not config.resume:
            from gptlab.runs.run_dir import RunDir

            RunDir(Path(config.run_dir)).require_new()  # only rank 0 can tell; the others would wait for it in vain
        given = [*_config_flags(self.argv), *hydra_config.overrides.hydra, *hydra_config.overrides.task]
        self.crew.lead([*given, f'hydra.run.dir="{hydra_config.runtime.output_dir}"'])

    def answer(self, sweep: Sweep | None) -> dict[str, Any]:
        """What `json=true` prints: that of the one job, or of all."""
        done = [answer for answer in self.answers if "overrides" in answer]
        if self.after_sweep and done:
            self.answers.append(self.after_sweep(done))
        if sweep and (results := sweep.results()):
            sweep.report(results)
            self.code = max(self.code, exit_code(results))
            return {"runs": results, **(self.answers[0] if self.answers else {})}
        return self.answers[0] if len(self.answers) == 1 else {"runs": self.answers}

    def mistake(self, error: Exception) -> None:
        """Something in what was asked."""
        line = explain(error, self.argv)
        if self.crew.speaks_of(line):
            print(f"error: {line}", file=sys.stderr)
        self._failed(line, code=2)

    def _crashed(self, error: Exception) -> None:
        """What nobody has foreseen."""
        traceback.print_exc()
        self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, why: str, code: int = 1) -> None:
        self.answers.append({"error": why})
        self.code = max(self.code, code)


def _runs_asked_for(argv: list[str], crew: ProcessGroup) -> tuple[list[str], Sweep | None]:
    """The command line as Hydra gets it, with the run or sweep that it resumes, and the sweep if it is one."""
    argv = _resumed(argv)
    sweep = Sweep.of(argv)
    if sweep is None:
        return argv, None
    why = f"a sweep starts its jobs itself, and {crew.size} processes are started"
    require(crew.size == 1, "hydra.mode", "MULTIRUN", why, "start it without torchrun or srun")
    return sweep.argv, sweep


def _resumed(argv: list[str]) -> list[str]:
    """`resume=RUN` as the command line that composes that run's own config, and the rest of argv over it.

    It goes on in its own directory, or, with `run_dir=DIR`, as a new run.
    """
    asked = [arg.partition("=")[2] for arg in argv if arg.startswith("resume=")]
    if not asked or asked[-1] in ("", "null", "auto") or _config_flags(argv):
        return argv
    from gptlab.runs.run_dir import RunDir

    try:
        run = RunDir.find(asked[-1], without_checkpoint=True)
    except UserError as error:
        raise UserError("resume", asked[-1], error.why, error.todo) from error
    path = run.path.resolve()
    resume = path if run.checkpoint == run.checkpoints / "last.ckpt" else run.checkpoint.resolve()
    rest = [arg for arg in argv if not arg.startswith("resume=")]
    options = {key: option for key, _, option in (arg.partition("=") for arg in rest) if _is_option(key, option)}
    rest = [arg for arg in rest if arg.partition("=")[0] not in options]
    config = run.with_options(options) if options else "config"
    return ["--config-dir", str(path), "--config-name", config, f"run_dir={path}", *rest, f"resume={resume}"]


def _is_option(key: str, option: str) -> bool:
    return (conf_dir() / key / f"{option}.yaml").is_file()


def _config_flags(argv: list[str]) -> list[str]:
    """What of a command line says where the config comes from."""
    flags = ("--config-dir", "-cd", "--config-name", "-cn")
    found = []
    for i, arg in enumerate(argv):
        if arg in flags:
            found += argv[i : i + 2]
        elif arg.startswith(tuple(f"{flag}=" for flag in flags)):
            found.append(arg)
    return found


def _remove_if_empty(folder: Path) -> None:
    """Take back a directory that Hydra made and no run took, and the day's if it is the only one."""
    with contextlib.suppress(OSError):  # not empty: not ours
        folder.rmdir()
        folder.parent.rmdir()


@contextlib.contextmanager
def _standard_output_kept_for_json() -> Iterator[Any]:
    """Everything that anybody prints goes to standard error, child processes included; yields the real output."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield out
        finally:
            sys.stdout.flush()
            out.flush()
            os.dup2(out.fileno(), 1)
