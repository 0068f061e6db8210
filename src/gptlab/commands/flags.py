"""Read what a command line says besides values: the flags, which are Hydra's, and the run that it names."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from gptlab.config.overrides import quoted, unquoted
from gptlab.errors import require, require_choice

CONFIG_FLAGS = {"--config-dir": "dir", "-cd": "dir", "--config-name": "name", "-cn": "name"}
_SHOWN = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# the values that a flag takes: none, any text (None), or one of some
_VALUES: dict[str, tuple[str, ...] | None] = {
    **dict.fromkeys(("--multirun", "-m", "--run", "-r", "--resolve", "--hydra-help", "--version"), ()),
    **dict.fromkeys(("--shell-completion", "-sc"), ()),
    **dict.fromkeys((*CONFIG_FLAGS, "--config-path", "-cp", "--package", "-p")),
    **dict.fromkeys(("--cfg", "-c"), _SHOWN),
    **dict.fromkeys(("--info", "-i"), _INFO),
}


def is_flag(arg: str) -> bool:
    """Return whether an argument, without a value, is one of the flags."""
    return arg in _VALUES or arg in ("-h", "--help")


def flags_first(argv: list[str]) -> list[str]:
    """Return a command line with its flags before its overrides: Hydra takes overrides only in one piece.

    Raises UserError for a flag that is not there, or whose value is none of its.
    """
    flags, overrides = list[str](), list[str]()
    rest = list(argv)
    while rest:
        flag, given, value = rest.pop(0).partition("=")
        if not flag.startswith("-"):
            overrides.append(f"{flag}{given}{value}")
            continue
        require(flag in _VALUES, flag, value or "?", "no such flag", f"choose one of {', '.join(_VALUES)}, --help")
        choices = _VALUES[flag]
        if choices == ():
            require(not given, flag, value, "takes no value", f"give {flag}")
            flags.append(flag)
            continue
        if not given and choices is _INFO and (not rest or rest[0] not in _INFO):
            value = "all"
        elif not given and rest:
            value = rest.pop(0)
        if choices is None:
            require(bool(value), flag, value or "?", "needs a value", f"give {flag} NAME")
        else:
            require_choice(flag, value or "?", choices)
        flags += [flag, value]
    return [*flags, *overrides]


def split_flags(argv: list[str]) -> tuple[dict[str, str] | None, list[str]]:
    """Return the flags that name a config, and the overrides; None where a line asks for more than one run."""
    flags, rest = _config_flags(argv)
    return (None, argv) if any(arg.startswith("-") for arg in rest) else (flags, rest)


def without_cfg_job(argv: list[str]) -> tuple[list[str], bool]:
    """Return a command line without `--cfg job`, and whether it asks for that alone: to show the config of one run.

    What else can be shown is Hydra's.
    """
    flags = [arg for arg in argv if arg.startswith("-")]
    job = any(flag in ("--cfg", "-c") and value == "job" for flag, value in itertools.pairwise(argv))
    if not job or set(flags) - {"--cfg", "-c", "--resolve", *CONFIG_FLAGS}:
        return argv, False
    at = next(i for i, arg in enumerate(argv) if arg in ("--cfg", "-c"))
    return [arg for arg in (*argv[:at], *argv[at + 2 :]) if arg != "--resolve"], True


def by_config(argv: list[str]) -> list[str]:
    """Return `--config-dir RUN --config-name config` as config=RUN/config.yaml, which is read as data."""
    flags, kept = _config_flags(argv)
    file = Path(flags.get("dir", ""), "config.yaml")
    if flags.get("name", "").removesuffix(".yaml") != "config" or not file.is_file():
        return argv
    return [f"config={quoted(str(file))}", *kept]


def require_no_run_config(argv: list[str]) -> None:
    """Refuse config.yaml as a primary config: it is the name of a run's, which Hydra never composes."""
    name = _config_flags(argv)[0].get("name", "train")
    plain = re.fullmatch(r"[\w-]+(\.yaml)?", name) is not None and name.removesuffix(".yaml") != "config"
    require(plain, "--config-name", name, "is no config that can be composed", "give a name; a run's is config=RUN")


def _config_flags(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the flags that name a config, by what they name, and the rest of a command line."""
    flags, kept = dict[str, str](), list[str]()
    rest = iter(argv)
    for arg in rest:
        flag, given, value = arg.partition("=")
        if flag in CONFIG_FLAGS:
            flags[CONFIG_FLAGS[flag]] = value if given else next(rest, "")
        else:
            kept.append(arg)
    return flags, kept


def resumed(argv: list[str]) -> list[str]:
    """Return `resume=RUN` as the command line that starts from that run's own config, and the rest of argv over it.

    It goes on in its own directory, or, with `run_dir=DIR`, as a new run.
    """
    asked = [arg.partition("=")[2] for arg in argv if arg.startswith("resume=")]
    if not asked or asked[-1] in ("", "null", "auto") or any(arg.startswith("config=") for arg in argv):
        return argv
    from gptlab.runs.run_dir import RunDir

    name = unquoted(asked[-1])
    run = RunDir.find_as("resume", name, without_checkpoint=True)
    made = next((key for key in ("imported_from", "averaged_from") if key in run.config()), "")
    why, todo = f"was {made.partition('_')[0]}, and has weights alone", f"begin a run with them: init_from={name}"
    require(not made, "resume", name, why, todo)
    path = run.path.resolve()
    resume = path if run.checkpoint == run.checkpoints / "last.ckpt" else run.checkpoint.resolve()
    rest = [arg for arg in argv if not arg.startswith("resume=")]
    config, run_dir = quoted(str(path / "config.yaml")), quoted(str(path))
    return [f"config={config}", f"run_dir={run_dir}", *rest, f"resume={quoted(str(resume))}"]


def of_run(argv: list[str]) -> list[str]:
    """Return `run=RUN` as the command line that starts from that run's own config, and the rest of argv over it.

    A model that was imported or averaged, or is a directory of Hugging Face, has no config of a training: it is what a
    new run begins with.
    """
    asked = [arg.partition("=")[2] for arg in argv if arg.startswith("run=")]
    if not asked or asked[-1] in ("", "null") or any(arg.startswith("config=") for arg in argv):
        return argv
    from gptlab.interop.hub_directory import in_hub_format
    from gptlab.runs.run_dir import RunDir

    name = unquoted(asked[-1])
    if in_hub_format(name):
        return [f"init_from={quoted(name)}", *argv]
    run = RunDir.find_as("run", name)
    if any(key in run.config() for key in ("imported_from", "averaged_from")):
        return [f"init_from={quoted(str(run.path.resolve()))}", *argv]
    return [f"config={quoted(str(run.path.resolve() / 'config.yaml'))}", *argv]
