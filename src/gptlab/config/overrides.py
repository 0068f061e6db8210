"""A command line's `key=value` as Hydra reads it."""

import re

# Hydra's own options that have a value after them
VALUE_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")


def quoted(text: str) -> str:
    """A text as the value of an override, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def quote_values(argv: list[str]) -> list[str]:
    """Hydra takes no `=` in a bare value, but the directories of a sweep have it in their names: run=0-seed=1. And it
    reads `debug=nan` as a number."""
    argv = [re.sub(r"\bnan\b", "'nan'", arg) if re.fullmatch(r"debug=[\w,]+", arg) else arg for arg in argv]
    bare = re.compile(r"""(?P<key>[^-=][^=]*)=(?P<value>[^'"()\[\]{}]*=[^'"()\[\]{}]*)""")
    found = [None if argv[i - 1] in VALUE_FLAGS else bare.fullmatch(arg) for i, arg in enumerate(argv)]
    return [f"{m['key']}={quoted(m['value'])}" if m else arg for m, arg in zip(found, argv, strict=True)]
