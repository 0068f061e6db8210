"""Keep the command line of a sweep in its sweep.json; what of it could run code is not believed when it is read.

Hydra composes a sweep by its command line, also one that is repeated by resume_sweep=DIR. Names of options and plain
values are taken from the file; whatever names code, a shell command, another folder of configs or an interpolation has
to be typed again.
"""

import json
import re
from pathlib import Path

from gptlab import registry
from gptlab.errors import UserError, reason, require
from gptlab.files import read_json, write_atomically

NAME = "sweep.json"
MOST_BYTES = 1 << 20
_FLAGS = ("-m", "--multirun")
_OVERRIDE = re.compile(r"\+{0,2}([\w./@]+)=(.*)", re.DOTALL)
_HYDRA = re.compile(r"hydra/(launcher|sweeper|sweeper/sampler)|hydra\.(launcher|sweeper)\.\w[\w.]*")
_RUNS_CODE = re.compile(r"setup|python|srun|command|parameters|storage|custom|folder")
_PLAIN = re.compile(r"[\w.,:/+\[\]{}()'\" =-]*", re.ASCII)


def write_argv(folder: Path, argv: list[str]) -> None:
    """Write the command line of a sweep into its folder."""
    write_atomically(folder / NAME, (json.dumps({"argv": argv}, indent=2) + "\n").encode())


def read_argv(folder: Path, typed: list[str]) -> list[str]:
    """Return the command line of a sweep; raises UserError where it is damaged, or could run code unless `typed` has
    that part of it too."""
    file, todo = folder / NAME, "take it from another copy of the sweep, or start a new one"
    try:
        argv = read_json(file, MOST_BYTES)["argv"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError("resume_sweep", file, f"cannot be read ({reason(error)})", todo) from error
    known = isinstance(argv, list) and all(isinstance(arg, str) for arg in argv)
    require(known, "resume_sweep", file, "does not hold a command line", todo)
    for arg in argv:
        why, again = f"asks for {arg!r}, which could run code", "if you trust it, type it again beside resume_sweep"
        require(arg in typed or is_harmless(arg), "resume_sweep", file, why, again)
    return list(argv)


def is_harmless(arg: str) -> bool:
    """Tell whether an argument names no more than options and plain values."""
    if arg in _FLAGS:
        return True
    match = _OVERRIDE.fullmatch(arg)
    if match is None or "_target_" in arg or "${" in arg:
        return False
    key, value = match[1], match[2]
    if key.startswith("hydra"):
        known = _HYDRA.fullmatch(key) and not _RUNS_CODE.search(key)
        return bool(known and _PLAIN.fullmatch(value)) and ".." not in value
    if "/" in key or "@" in key or key in registry.groups() or key in ("experiment", "debug"):
        return bool(re.fullmatch(r"[\w.,-]*", value, re.ASCII)) and ".." not in value  # no path out of conf/
    return True
