"""Turn errors of a user's config into one line in the user's words."""

import dataclasses
import difflib
from collections.abc import Sequence

from hydra.errors import OverrideParseException
from yaml import MarkedYAMLError

from gptlab.commands import habits
from gptlab.config.hydra_internals import KeyMistake, key_mistake, misfit, overridden_key, unknown_option
from gptlab.config.tree import RECORDED
from gptlab.errors import UserError

# options that come with an extra
EXTRAS = {
    "hydra/sweeper=optuna": "sweep",
    "hydra/launcher=submitit_slurm": "slurm",
    "hydra/launcher=submitit_local": "slurm",
}


# begin what is said of words that are not gptlab's
UNKNOWN = (
    "no such key",
    "no such config",
    "no such option",
    "no such flag",
    "needs a value",
    "takes no value",
    "is not key=value",
    "its bracket",
)


def in_our_words(line: str, verb: str, argv: Sequence[str], error: Exception | None = None) -> str:
    """Return a mistake's line with the command line to type, where gptlab knows how another tool spells it."""
    told = habits.advice(verb, argv, line.partition("=")[0].partition(":")[0], error=error)
    return line if told is None else f"{line.rpartition('; ')[0] or line}; type: {told}"


def explain(error: Exception, argv: list[str]) -> str:
    """Return `<key>=<value>: <why>; <what to do>` for an error of Hydra, OmegaConf or gptlab."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: is not key=value; quote values with spaces or commas, e.g. 'prompt=\"a, b\"'"
    if found := unknown_option(error):
        group, option, known = found
        options = [name for name in known if name != RECORDED]
        if not group:
            todo = f"give --config-dir FOLDER with a {option}.yaml, which begins e.g. with defaults: [train, _self_]"
            return f"--config-name={option}: no such config; {todo}"
        if extra := EXTRAS.get(f"{group}={option}"):
            return f"{group}={option}: is not installed; pip install 'gptlab[{extra}]'"
        return f"{group}={option}: no such option{_closest(option, options)}; choose {_any_of(options)}"
    if mistake := key_mistake(error):
        return _of_key(mistake, argv)
    if key := overridden_key(error):
        return f"{key}={_value(key, argv)}: no such config group or key; see --help for what there is"
    if wrong := misfit(error):
        return f"{wrong[0]}: {wrong[1]}; see --help for what there is"
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}: {error.problem} (line {error.problem_mark.line + 1}); correct the file"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"config: {' '.join(lines[:2])}; see --help for what there is"


def _of_key(mistake: KeyMistake, argv: list[str]) -> str:
    """Return the line for a key that does not exist, or a value that does not fit."""
    key, _, owner, why = mistake
    given = f"{key}={_value(key, argv)}"
    if why is not None:
        return f"{given}: {why}; {_example(mistake)}"
    known = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
    where = f" of {owner.__name__}" if known and "." in key else ""
    none = f"add it with +{given}" if "." in key and owner is dict else "it takes no fields"
    todo = f"choose {_any_of(known)}" if known else none
    return f"{given}: no such key{where}{_closest(key.rpartition('.')[2], known)}; {todo}"


def _value(key: str, argv: list[str]) -> str:
    given = [arg.partition("=")[2] for arg in argv if arg.partition("=")[0].lstrip("+~") == key]
    return given[-1] if given else "?"


def _closest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _any_of(names: list[str]) -> str:
    return "one of " + ", ".join(names) if names else "something else"


def _example(mistake: KeyMistake) -> str:
    """Return the advice to give a value such as the field's default."""
    if dataclasses.is_dataclass(mistake.owner):
        for f in dataclasses.fields(mistake.owner):
            if f.name == mistake.name and f.default not in (dataclasses.MISSING, None, "???"):
                return f"give a value such as {f.default}"
    return "give a value of that type" if mistake.owner else "see what stands in ${ }"
