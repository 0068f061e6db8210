"""The config tree: conf/ over the registered dataclasses, composed by Hydra, and typed objects out of it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from gptlab import registry
from gptlab.config.overrides import quote_values, quoted, unquoted
from gptlab.config.record import read_nodes
from gptlab.config.schema import part_fields, require_known, schema_of, to_typed
from gptlab.errors import require

RECORDED = "as_recorded"  # in each group, the option of the run whose config.yaml is composed over


def _slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.,=+-]+", "_", text)[:150]


# here, not in register(): a job on another machine begins by importing this module
OmegaConf.register_new_resolver("slug", _slug, replace=True)
OmegaConf.register_new_resolver("per_width", lambda rate, n_embd: float(rate) * (768 / n_embd) ** 0.5, replace=True)
warnings.filterwarnings("ignore", r"(?s).*is validated against ConfigStore schema with the same name")


def conf_dir() -> Path:
    """Return the config tree: inside the package in a wheel, at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(p for p in (package / "conf", package.parents[1] / "conf") if p.is_dir())


def register(verb: str) -> str:
    """Tell Hydra every registered dataclass, and return the name of the verb's primary config.

    `/schema/GROUP/NAME` is the schema of an option, from which presets start; GROUP/NAME is the option itself, where
    conf/ has no file of that name. A verb without a file in conf/ gets the options of its config's defaults.
    """
    store, command = ConfigStore.instance(), registry.find_command(verb)
    for group in registry.groups():
        for name, part in registry.options(group).items():
            if f"{name}.yaml" not in store.repo.get("schema", {}).get(group, {}):
                store.store(group=f"schema/{group}", name=name, node=schema_of(part))
                if not (conf_dir() / group / f"{name}.yaml").is_file():
                    store.store(group=group, name=name, node=schema_of(part))
    store.store(group="schema/command", name=command.config, node=schema_of(command.config_type))
    if not (conf_dir() / f"{command.config}.yaml").is_file():
        defaults = [f"/schema/command/{command.config}@_here_", "/command/read", "_self_"]
        chosen = [{group: option} for group, option in part_fields(command.config_type).items()]
        store.store(name=command.config, node={"defaults": [*defaults, *chosen]})
    return command.config


def register_run(verb: str, path: Path) -> str:
    """Tell Hydra the values of a run's config.yaml, and return the name of a primary config that has them.

    The file is read as data; its values become an option of each group, over which others can be chosen.
    """
    store, config = ConfigStore.instance(), register(verb)
    parts, rest = read_nodes(path, verb)
    for group, node in parts.items():
        store.store(group=group, name=RECORDED, node=node)
    own = {str(key): value for key, value in _plain(rest).items() if key not in parts}
    chosen = [*({group: RECORDED} for group in parts), {"experiment": None}, {"debug": None}]
    defaults = [f"/schema/command/{config}@_here_", "/command/train", "_self_", *chosen]
    store.store(name=f"{config}_{RECORDED}", node={"defaults": defaults, **own})
    return f"{config}_{RECORDED}"


def primary(verb: str, argv: list[str]) -> tuple[str, list[str]]:
    """Return the name of the primary config that a command line asks for, and the rest of the command line.

    `config=FILE` is the config.yaml of a run, or the run's directory; without it the config is the verb's own.
    """
    asked = [arg.partition("=")[2] for arg in argv if arg.startswith("config=")]
    if not asked or not takes_run_configs(verb):
        return register(verb), argv
    path = Path(unquoted(asked[-1])).expanduser()
    path = path / "config.yaml" if path.is_dir() else path
    require(path.is_file(), "config", asked[-1], "no such file", "give the config.yaml of a run")
    return register_run(verb, path), [arg for arg in argv if not arg.startswith("config=")]


def takes_run_configs(verb: str) -> bool:
    """Whether a verb is asked what a run is asked, so that it takes a run's config.yaml."""
    return registry.find_command(verb).config_type is registry.find_command("train").config_type


def compose(
    verb: str,
    overrides: list[str] | None = None,
    run: str | Path | None = None,
    config_dir: Path | None = None,
    config_name: str | None = None,
) -> Any:
    """Return the typed config of a verb, as its command would get it: `compose("train", ["model=micro"])`.

    `run` is a run's directory or config.yaml, over which the overrides go; `config_dir` a folder of further options,
    and `config_name` a primary config in it; `config` is always that of a run.
    """
    if config_dir and config_name == "config":  # a run's own, which is never composed as it stands
        run, config_dir, config_name = config_dir, None, None
    given = [*([f"config={quoted(str(run))}"] if run else []), *(overrides or [])]
    name, given = primary(verb, given)
    if config_dir:
        require(config_dir.is_dir(), "--config-dir", config_dir, "no such directory", "give a folder of options")
        given.append(f"hydra.searchpath=[{quoted(f'file://{config_dir.absolute()}')}]")
    given = quote_values(given, registry.find_command(verb).config_type)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra_compose(config_name or name, given, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # interpolations look things up in it
    try:
        run_dir = str(Path(cfg.hydra.run.dir).absolute())
        with open_dict(cfg):
            del cfg["hydra"]
        return typed_config(cfg, run_dir)
    finally:
        HydraConfig.instance().cfg = None


def typed_config(cfg: DictConfig, run_dir: str) -> Any:
    """Return a composed config as typed objects; a run whose directory nobody has named gets `run_dir`."""
    if "run_dir" in cfg and cfg.run_dir is None:
        cfg.run_dir = run_dir
    require_known(cfg)
    return to_typed(cfg)


def _plain(cfg: DictConfig) -> dict[Any, Any]:
    values = OmegaConf.to_container(cfg)
    assert isinstance(values, dict)
    return values
