"""The way in for every verb: Hydra composes, mistakes become one line, results become a report or JSON.

Exit codes: 0, 1 (failed in mid-run), 2 (a mistake in what was asked).
"""

import contextlib
import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from gptlab.config import VERB_CONFIGS, conf_dir, register, to_typed
from gptlab.errors import UserError, require


def open_door(verb: str, work: Callable[[Any], dict[str, Any] | None], program: list[str], argv: list[str]) -> int:
    """Run `work` on the typed config that `argv` asks of `verb`; `program` is the command line before `argv`.

    `work` returns what `json=true` prints, or None in a process that is not the one to speak.
    """
    if {"-h", "--help"}.intersection(argv):
        print(usage(verb))
        return 0
    as_json = any(re.fullmatch(r"\+{0,2}json=(true|yes|on|1)", arg, re.IGNORECASE) for arg in argv)
    results: list[dict[str, Any]] = []
    mistakes: list[Exception] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)
    def job(cfg: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        # Lightning starts the other ranks by this line: the one job, never the whole sweep
        sys.argv = [*program, *hydra_config.overrides.task]
        try:
            config = to_typed(cfg, hydra_config.runtime.output_dir)
            if hydra_config.mode == RunMode.MULTIRUN and verb == "train":
                devices, why = config.trainer.devices, "a sweep gives each of its jobs one"
                require(devices in ("auto", 1, "1"), "trainer.devices", devices, why, "leave it out")
            result = work(config)
        except (UserError, OmegaConfBaseException) as error:
            mistakes.append(error)  # a sweep goes on with its other jobs
            _remove_if_empty(Path(hydra_config.runtime.output_dir))
        else:
            if result is not None:
                results.append(result)

    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    sys.argv = [program[0], *argv]
    with _standard_output_kept_for_json() if as_json else contextlib.nullcontext(sys.stdout) as out:
        try:
            job()
        except (HydraException, OmegaConfBaseException) as error:
            mistakes.append(error)
        lines = [explain(mistake, argv) for mistake in mistakes]
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        answers = results + [{"error": line} for line in lines]
        if as_json and answers:
            print(json.dumps(answers[0] if len(answers) == 1 else {"runs": answers}), file=out)
    return 2 if mistakes else 0


def usage(verb: str) -> str:
    """What a verb takes: its groups with their options, and its plain keys with their defaults."""
    config_type = VERB_CONFIGS[verb]
    lines = [f"gptlab {verb} GROUP=OPTION GROUP.KEY=VALUE KEY=VALUE ...", "", str(config_type.__doc__), "", "groups:"]
    groups = [f.name for f in dataclasses.fields(config_type)] + ["experiment"] * (verb == "train")
    for group in groups:
        if options := sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")):
            lines.append(f"  {group:<13}{' '.join(options)}")
    lines += ["", "keys:"]
    for f in dataclasses.fields(config_type):
        if (conf_dir() / f.name).is_dir():
            continue
        if dataclasses.is_dataclass(f.type):
            inner = dataclasses.fields(f.type)
            lines += [f"  {f.name}.{g.name} = {g.default}" for g in inner]
        else:
            default = "" if f.default in (dataclasses.MISSING, MISSING) else f" = {f.default}"
            lines.append(f"  {f.name}{default}")
    lines += [
        "",
        "--cfg job shows the composed config; -m KEY=A,B sweeps; -sc install=bash completes keys.",
    ]
    return "\n".join(lines)


def _remove_if_empty(folder: Path) -> None:
    """Take back the directory that Hydra made for a run that never began, and the day's if it is the only one."""
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
            yield out
        finally:
            sys.stdout.flush()
            out.flush()
            os.dup2(out.fileno(), 1)


def explain(error: Exception, argv: list[str]) -> str:
    """`<key>=<value>: <why>; <what to do>` for whatever Hydra, OmegaConf or gptlab had to complain about."""
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not key=value; quote values with spaces or commas, e.g. 'prompt=\"a, b\"'"
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = sorted(error.options or [])
        return f"{group or 'config'}={option}: no such option{_closest(option, options)}; choose {_any_of(options)}"
    if isinstance(cause, ConfigKeyError | AttributeError) and getattr(cause, "full_key", None):
        key = str(cause.full_key)  # type: ignore[union-attr]
        owner: Any = cause.object_type  # type: ignore[union-attr]
        known = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        where = f" of {owner.__name__}" if known and "." in key else ""
        todo = f"choose {_any_of(known)}" if known else "it takes no fields"
        return f"{key}={_value(key, argv)}: no such key{where}{_closest(key.rpartition('.')[2], known)}; {todo}"
    if isinstance(cause, ValidationError) and getattr(cause, "full_key", None):
        key, why = str(cause.full_key), str(cause.msg).splitlines()[0]
        return f"{key}={_value(key, argv)}: {why}; {_example(cause)}"
    if match := re.match(r"Could not override '([^'=]+)(?:=([^']*))?'.*", str(error)):
        key = match[1]
        return f"{key}={_value(key, argv)}: no such config group or key; see --help for what there is"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"config: {' '.join(lines[:2])}; see --help for what there is"


def _value(key: str, argv: list[str]) -> str:
    given = [arg.partition("=")[2] for arg in argv if arg.partition("=")[0].lstrip("+~") == key]
    return given[-1] if given else "?"


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _any_of(names: list[str]) -> str:
    return "one of " + ", ".join(names) if names else "something else"


def _example(error: ValidationError) -> str:
    """A value that would do: the field's default."""
    owner, name = error.object_type, str(error.key)
    if dataclasses.is_dataclass(owner):
        for f in dataclasses.fields(owner):
            if f.name == name and f.default is not dataclasses.MISSING:
                return f"give a value such as {f.default}"
    return "give a value of that type"
