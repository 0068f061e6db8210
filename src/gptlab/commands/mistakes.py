"""Explain mistakes in what was asked in the user's words."""

import dataclasses
import difflib
import re
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigKeyError, ValidationError

from gptlab.config.tree import RECORDED
from gptlab.errors import UserError

# options that come with an extra
EXTRAS = {
    "hydra/sweeper=optuna": "sweep",
    "hydra/launcher=submitit_slurm": "slurm",
    "hydra/launcher=submitit_local": "slurm",
}


def explain(error: Exception, argv: list[str]) -> str:
    """Return `<key>=<value>: <why>; <what to do>` for an error of Hydra, OmegaConf or gptlab."""
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not key=value; quote values with spaces or commas, e.g. 'prompt=\"a, b\"'"
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        options = sorted(set(error.options or []) - {RECORDED})
        if extra := EXTRAS.get(f"{group}={option}"):
            return f"{group}={option}: is not installed; pip install 'gptlab[{extra}]'"
        return f"{group or 'config'}={option}: no such option{_closest(option, options)}; choose {_any_of(options)}"
    if isinstance(cause, ConfigKeyError | AttributeError) and getattr(cause, "full_key", None):
        key = str(cause.full_key)  # type: ignore[union-attr]
        owner: Any = cause.object_type  # type: ignore[union-attr]
        known = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        where = f" of {owner.__name__}" if known and "." in key else ""
        none = f"add it with +{key}={_value(key, argv)}" if "." in key and owner is dict else "it takes no fields"
        todo = f"choose {_any_of(known)}" if known else none
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
    """Return a value that would do: the field's default."""
    owner, name = error.object_type, str(error.key)
    if dataclasses.is_dataclass(owner):
        for f in dataclasses.fields(owner):
            if f.name == name and f.default not in (dataclasses.MISSING, None, "???"):
                return f"give a value such as {f.default}"
    return "give a value of that type"
