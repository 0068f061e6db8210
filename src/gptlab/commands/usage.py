"""Write the help of a verb: its groups with their options, and its keys with their defaults."""

import dataclasses
import typing
from typing import Any

from gptlab import registry
from gptlab.config.schema import part_fields
from gptlab.config.tree import conf_dir, takes_run_configs


def usage(verb: str) -> str:
    """Return the help of a verb, as `gptlab VERB --help` prints it."""
    config_type = registry.find_command(verb).config_type
    lines = [f"gptlab {verb} GROUP=OPTION GROUP.KEY=VALUE KEY=VALUE ...", "", str(config_type.__doc__), "", "groups:"]
    recipes = ["experiment", "debug"] if takes_run_configs(verb) else []
    for group in (*part_fields(config_type), *recipes):
        lines.append(f"  {group:<13}{' '.join(options(group))}")
    lines += ["", "keys:"]
    hints = typing.get_type_hints(config_type)
    for f in dataclasses.fields(config_type):
        if f.name in part_fields(config_type):
            continue
        if dataclasses.is_dataclass(hints[f.name]):
            lines += [f"  {f.name}.{inner.name} = {_default(inner)}" for inner in dataclasses.fields(hints[f.name])]
        else:
            lines.append(f"  {f.name} = {_default(f)}")
    if takes_run_configs(verb):
        lines += ["", "config=RUN/config.yaml repeats a run, with what else is given."]
    lines += ["", "--cfg job shows the composed config; -m KEY=A,B sweeps; -sc install=bash completes keys."]
    return "\n".join(lines)


def options(group: str) -> list[str]:
    """Return the options of a group: the registered ones and the presets of conf/."""
    return sorted({*registry.options(group), *(path.stem for path in (conf_dir() / group).glob("*.yaml"))})


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()
