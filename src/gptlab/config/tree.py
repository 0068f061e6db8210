"""Compose the config tree, conf/ over the registered dataclasses, into typed objects."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gptlab import plugins, registry
from gptlab.config import hydra_internals
from gptlab.config.logger_list import each_logger
from gptlab.config.overrides import quote_values, quoted, unquoted
from gptlab.config.record import read_nodes
from gptlab.config.schema import part_fields, require_known, schema_of, to_typed, unchecked
from gptlab.errors import UserError, require
from gptlab.files import conf_dir, followed

RECORDED = "as_recorded"  # the option, in each group, that holds the values of a run's config.yaml


def _slug(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^\w.,=+-]+", "_", text)[:150]


def _named(model: str, init_from: Any) -> str:
    """Return the name of a run that was given none: its model's, or `from-NAME` where it begins with another run's."""
    if not init_from:
        return model
    from gptlab.runs.run_dir import RunDir

    try:
        title = RunDir.find(str(init_from)).title()
    except UserError:  # a directory of Hugging Face, or a mistake, which is said when the run begins
        title = Path(str(init_from)).expanduser().resolve().name
        if not Path(str(init_from)).expanduser().is_dir():
            return model
    return _slug(title if title.startswith("from-") else f"from-{title}")


def _unused(path: str) -> str:
    """Return the path of a run's directory, with a number behind it where a run of the same second has it."""
    from gptlab.runs.run_dir import unused

    return str(unused(Path(path)))


def _per_width(rate: float, model: Any, power: float = 0.5) -> float:
    """Return a rate that suits a width of 768 for that of a model, or for the width of which a parametrization has it.

    It falls with this power of the width. `model` has the settings of the group, or is None.
    """
    key = "n_embd" if model is None or model.get("parametrization", "standard") == "standard" else "base_width"
    return float(rate) * (768 / (768 if model is None else model.get(key, 768))) ** float(power)


# here, not in register(): a job on another machine starts by importing this module
hydra_internals.register_resolver("slug", _slug)
hydra_internals.register_resolver("named", _named)
hydra_internals.register_resolver("unused", _unused)
hydra_internals.register_resolver("chosen", lambda choice, recorded: recorded if choice == RECORDED else choice)
hydra_internals.register_resolver("greater", lambda first, second: max(first, second))
hydra_internals.register_resolver("smaller", lambda first, second: min(first, second))
hydra_internals.register_resolver("product", lambda first, second: first * second)
hydra_internals.register_resolver("quotient", lambda above, below: above / below)
hydra_internals.register_resolver("per_width", _per_width)
hydra_internals.silence_advice()
hydra_internals.share_the_store()
hydra_internals.map_choices_where_asked()
hydra_internals.parse_once()
hydra_internals.copy_notes_quickly()
hydra_internals.read_once()
hydra_internals.merge_once()


def register(verb: str) -> str:
    """Register every dataclass with Hydra, and return the name of the verb's primary config.

    `/schema/GROUP/NAME` is the schema of an option, from which presets start; GROUP/NAME is the option itself, where
    conf/ has no file of that name. A verb without a file in conf/ gets the options of its config's defaults.
    """
    store, command = hydra_internals.store, registry.find_command(verb)
    keys = {f.name for f in dataclasses.fields(command.config_type)} - set(part_fields(command.config_type))
    for group in registry.groups():
        for name, part in registry.options(group).items():
            if not hydra_internals.is_stored(name, f"schema/{group}"):
                store(name, schema_of(part), f"schema/{group}")
            own = (conf_dir() / group / f"{name}.yaml").is_file() or hydra_internals.is_stored(name, group)
            if group not in keys and not own:
                store(name, schema_of(part), group)
        if group in keys:  # of this verb it is a key: `export adapter=true`
            hydra_internals.forget(group)
    store(command.config, schema_of(command.config_type), "schema/command")
    if not (conf_dir() / f"{command.config}.yaml").is_file():
        defaults = [f"/schema/command/{command.config}@_here_", "/command/read", "_self_"]
        chosen = [{group: option} for group, option in part_fields(command.config_type).items()]
        store(command.config, {"defaults": [*defaults, *chosen]})
    return command.config


def register_run(verb: str, path: Path) -> str:
    """Register the values of a run's config.yaml with Hydra, and return the name of the primary config that has them.

    The file is read as data; its values become an option of each group, over which others can be chosen.
    """
    store, config = hydra_internals.store, register(verb)
    parts, rest = read_nodes(path, verb)
    for group, node in parts.items():
        store(RECORDED, node, group)
    own = {str(key): value for key, value in _plain(rest).items() if key not in parts}
    if isinstance(recorded := own.get("preset"), str) and re.fullmatch(r"[\w-]+", recorded):
        own["preset"] = f"${{chosen:${{hydra:runtime.choices.model}},{recorded}}}"
    none = [group for group in part_fields(registry.find_command(verb).config_type) if group not in parts]
    chosen: list[dict[str, str | None]] = [{group: RECORDED} for group in parts]
    chosen += [{group: None} for group in (*none, "experiment", "debug")]
    writes = "train" if config == "train" else "read"
    defaults = [f"/schema/command/{config}@_here_", f"/command/{writes}", "_self_", *chosen]
    store(f"{config}_{RECORDED}", {"defaults": defaults, **own})
    return f"{config}_{RECORDED}"


def primary(verb: str, argv: list[str]) -> tuple[str, list[str]]:
    """Return the name of the primary config of a command line, and the other arguments.

    `config=FILE` is the config.yaml of a run, or the run's directory; without it the config is the verb's own.
    """
    asked = [arg.partition("=")[2] for arg in argv if arg.startswith("config=")]
    if not asked or not takes_run_configs(verb):
        return register(verb), argv
    path = followed(Path(unquoted(asked[-1])).expanduser())
    path = path / "config.yaml" if path.is_dir() else path
    require(path.is_file(), "config", asked[-1], "no such file", "give the config.yaml of a run")
    return register_run(verb, path), [arg for arg in argv if not arg.startswith("config=")]


def takes_run_configs(verb: str) -> bool:
    """Return whether a verb has the config of a training run, so that it accepts a run's config.yaml."""
    return issubclass(registry.find_command(verb).config_type, registry.find_command("train").config_type)


def compose(
    verb: str,
    overrides: list[str] | None = None,
    run: str | Path | None = None,
    config_dir: Path | None = None,
    config_name: str | None = None,
) -> Any:
    """Return the typed config of a verb, as its command would get it: `compose("train", ["model=micro"])`.

    `run` is a run's directory or config.yaml, over which the overrides go; `config_dir` a folder of further options and
    primary configs, and `config_name` a primary config; `config` is always that of a run.
    """
    with _composed(verb, overrides, run, config_dir, config_name) as (cfg, run_dir, _):
        return typed_config(cfg, str(Path(run_dir).absolute()))


def compose_unchecked(
    verb: str, overrides: list[str], config_dir: Path | None = None, config_name: str | None = None
) -> tuple[Any, dict[str, str | None]]:
    """Return the config of a verb as `compose`, but with what it would refuse, and the option that each group has."""
    with _composed(verb, overrides, None, config_dir, config_name) as (cfg, _, choices):
        require_known(cfg)
        return to_typed(cfg, unchecked), choices


@contextmanager
def _composed(
    verb: str,
    overrides: list[str] | None,
    run: str | Path | None,
    config_dir: Path | None,
    config_name: str | None,
) -> Iterator[tuple[DictConfig, str, dict[str, str | None]]]:
    """Yield what Hydra composes: the config, its run directory, and the option of each group."""
    if config_dir and config_name == "config":  # a run's own config, which Hydra must not compose
        run, config_dir, config_name = config_dir, None, None
    given = [*([f"config={quoted(str(run))}"] if run else []), *(overrides or [])]
    given = each_logger(given)
    name, given = primary(verb, given)
    if config_dir:
        require(config_dir.is_dir(), "--config-dir", config_dir, "no such directory", "give a folder of options")
    if (presets := search_path()) and "hydra.searchpath" not in " ".join(given):
        given.append(presets)
    given = quote_values(given, registry.find_command(verb).config_type)
    with hydra_internals.composed(str(conf_dir()), config_name or name, given, config_dir) as composed:
        yield composed


def search_path() -> str | None:
    """Return the override that lets Hydra find presets of plugins and of the project."""
    folders = plugins.conf_dirs()
    if not folders:
        return None
    return f"hydra.searchpath=[{','.join(quoted(f'file://{folder.absolute()}') for folder in folders)}]"


def typed_config(cfg: DictConfig, run_dir: str) -> Any:
    """Return a composed config as typed objects; a run without a directory gets `run_dir`.

    Raises UserError for keys that are not known, and for a primary config that is not built on that of a verb.
    """
    built_on = hasattr(OmegaConf.get_type(cfg), "original")
    why, todo = "is built on no config of a verb", "let it begin with that of yours, e.g. defaults: [train, _self_]"
    require(built_on, "--config-name", "?", why, todo)
    if "run_dir" in cfg and cfg.run_dir is None:
        cfg.run_dir = run_dir
    require_known(cfg)
    return to_typed(cfg)


def _plain(cfg: DictConfig) -> dict[Any, Any]:
    values = OmegaConf.to_container(cfg)
    assert isinstance(values, dict)
    return values
