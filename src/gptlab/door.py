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
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gptlab.config.overrides import quote_values
from gptlab.config.tree import conf_dir, register, to_typed
from gptlab.errors import RunFailed, UserError, require
from gptlab.launch import Crew, place
from gptlab.messages import explain, usage
from gptlab.sweep.job import follow_the_sweep
from gptlab.sweep.single import run_one
from gptlab.sweep.whole import Sweep, exit_code


def open_door(
    verb: str,
    work: Callable[[Any], dict[str, Any] | None],
    program: list[str],
    argv: list[str],
    after_sweep: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
) -> int:
    """Run `work` on the typed config that `argv` asks of `verb`; `program` is the command line before `argv`.

    `work` returns what `json=true` prints, or None in a process that is not the one to speak. `after_sweep` makes one
    result of those of a sweep, each with the `overrides` of its job.
    """
    if {"-h", "--help"}.intersection(argv):
        print(usage(verb))
        return 0
    as_json = any(re.fullmatch(r"\+{0,2}json=(true|yes|on|1)", arg, re.IGNORECASE) for arg in argv)
    answers: list[dict[str, Any]] = []
    codes = [0]
    crew = Crew(place() if verb == "train" else None)

    def mistake(error: Exception) -> None:
        line = explain(error, argv)
        if crew.speaks_of(line):
            print(f"error: {line}", file=sys.stderr)
        answers.append({"error": line})
        codes.append(2)

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)
    def job(cfg: DictConfig) -> float | None:
        """One job; a sweep goes on with the others whatever becomes of it."""
        hydra_config = HydraConfig.get()
        # Lightning starts the other ranks by this line: the one job, never the whole sweep
        sys.argv = [*program, *_config_flags(argv), *hydra_config.overrides.task]
        if hydra_config.mode == RunMode.MULTIRUN and verb == "train":
            return run_one(hydra_config, cfg, work)  # unless our launcher has it
        try:
            config = to_typed(cfg, hydra_config.runtime.output_dir)
            if crew.rank == 0 and crew.size > 1 and not config.resume:
                from gptlab.rundir import RunDir

                RunDir(Path(config.run_dir)).require_new()  # only rank 0 can tell; the others would wait for it in vain
            given = [*_config_flags(argv), *hydra_config.overrides.hydra, *hydra_config.overrides.task]
            crew.lead([*given, f'hydra.run.dir="{hydra_config.runtime.output_dir}"'])
            if (answer := work(config)) is not None:
                swept = hydra_config.mode == RunMode.MULTIRUN and after_sweep is not None
                answers.append({**answer, "overrides": list(hydra_config.overrides.task)} if swept else answer)
        except (UserError, OmegaConfBaseException) as error:
            mistake(error)
        except RunFailed as error:
            if crew.speaks_of(str(error)):
                print(f"error: {error}", file=sys.stderr)
            answers.append({"error": str(error)})
            codes.append(1)
        except Exception as error:
            traceback.print_exc()
            answers.append({"error": f"{type(error).__name__}: {error}"})
            codes.append(1)
        finally:
            _remove_if_empty(Path(hydra_config.runtime.output_dir))
        return None

    sweep = None
    if verb == "train":
        follow_the_sweep()
    if crew.rank:
        argv, code = crew.orders()
        if code is not None:
            return code
    elif verb == "train":
        try:
            argv = _resumed(argv)
            if sweep := Sweep.of(argv):
                argv = sweep.argv
                why = f"a sweep starts its jobs itself, and {crew.size} processes are started"
                require(crew.size == 1, "hydra.mode", "MULTIRUN", why, "start it without torchrun or srun")
        except UserError as error:
            mistake(error)
            crew.dismiss(2)
            if as_json:
                print(json.dumps(answers[0]))
            return 2
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    sys.argv = [program[0], *quote_values(argv)]
    with _standard_output_kept_for_json() if as_json else contextlib.nullcontext(sys.stdout) as out:
        try:
            with sweep.running() if sweep else contextlib.nullcontext():
                job()
        except (UserError, HydraException, OmegaConfBaseException) as error:
            mistake(error)
        except KeyboardInterrupt:
            answers.append({"error": "stopped"})
            codes.append(1)
        except Exception as error:  # of a launcher: the jobs that have ended are still told
            traceback.print_exc()
            answers.append({"error": f"{type(error).__name__}: {error}"})
            codes.append(1)
        finally:
            crew.dismiss(max(codes))
        done = [answer for answer in answers if "overrides" in answer]
        if after_sweep and done:
            answers.append(after_sweep(done))
        answer = answers[0] if len(answers) == 1 else {"runs": answers}
        if sweep and (results := sweep.results()):
            sweep.report(results)
            codes.append(exit_code(results))
            answer = {"runs": results, **(answers[0] if answers else {})}
        if as_json and (answers or sweep) and crew.rank == 0:
            print(json.dumps(answer), file=out)
    return max(codes)


def _resumed(argv: list[str]) -> list[str]:
    """`resume=RUN` as the command line that composes that run's own config, and the rest of argv over it.

    It goes on in its own directory, or, with `run_dir=DIR`, as a new run.
    """
    asked = [arg.partition("=")[2] for arg in argv if arg.startswith("resume=")]
    if not asked or asked[-1] in ("", "null", "auto") or _config_flags(argv):
        return argv
    from gptlab.rundir import RunDir

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
