"""Wrap every private or undocumented name of Hydra and OmegaConf that gptlab relies on, one function for each.

tests/test_contracts.py asserts what is assumed of each of them: run it when the version of either is raised. Names that
differ between hydra 1.3 with omegaconf 2.3 and hydra 1.4 with omegaconf 2.4 are chosen here and nowhere else.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, _utils, base, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

# Hydra's own options that take a value
VALUE_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")
_REPLACE: dict[str, Any] = {"replace": True} if "replace" in inspect.signature(ConfigStore.store).parameters else {}
_VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
_register: Any = OmegaConf.register_resolver
if "replace" not in inspect.signature(_register).parameters:
    _register = OmegaConf.register_new_resolver
_NOT_ADVISED = r"(?s).*is validated against ConfigStore schema with the same name"
_NO_SUCH_KEY = re.compile(r"Could not (?:override|delete from config\.) '([^'=]+)(?:=([^']*))?'.*")
_NOT_MERGED = re.compile(r"Error merging override (.*)", re.DOTALL)


def register_resolver(name: str, resolver: Callable[..., Any]) -> None:
    """Register a resolver, so that configs can say `${name:...}`; OmegaConf 2.4 renamed the function that does this."""
    _register(name, resolver, replace=True)


def store(name: str, node: Any, group: str | None = None) -> None:
    """Register an option of a group, or a primary config, in place of any of the same name.

    A process composes more than once, each time with another run. Hydra 1.4 has to be told that a name is replaced; 1.5
    will raise. A dataclass that has the name already stays: to make a config of it takes a while.
    """
    if isinstance(node, type) and OmegaConf.get_type(stored(name, group or "")) is node:
        return
    ConfigStore.instance().store(name=name, node=node, group=group, **_REPLACE)


def forget(group: str) -> None:
    """Make Hydra forget the options of a group that were stored, so that the group's name can be that of a key."""
    ConfigStore.instance().repo.pop(group, None)


def stored(name: str, group: str) -> Any:
    """Return the node of an option as it is stored; None where there is none. The group "" has the primary configs."""
    found: Any = ConfigStore.instance().repo
    for part in filter(None, group.split("/")):
        found = found.get(part, {})
    option = found.get(f"{name}.yaml")
    return None if option is None else option.node


def is_stored(name: str, group: str) -> bool:
    """Return whether Hydra knows an option already."""
    return stored(name, group) is not None


def share_the_store() -> None:
    """Let each composition read the one store of options, not a copy of all of it, which took a fifth of its time.

    Hydra copies its repository so as to change its list of sources; of the store it hands out copies anyway.
    """
    own: Any = ConfigStore
    own.__deepcopy__ = lambda self, memo: self


def map_choices_where_asked() -> None:
    """Let Hydra map its choices where a default has `${...}`, not at each node of the tree of defaults.

    Each map is a config of its own: a sixth of the time that composing takes. Hydra 1.4 makes none.
    """
    own: Any = defaults_list
    make = getattr(own, "_create_interpolation_map", None)
    if make is None or hasattr(make, "where_asked"):
        return

    def choices(overrides: Any, defaults: Sequence[Any], self_added: bool) -> Any:
        asked = any("${" in f"{getattr(each, 'path', '')}{getattr(each, 'value', '')}" for each in defaults)
        return make(overrides, defaults, self_added) if asked else None

    own._create_interpolation_map = choices
    own._create_interpolation_map.where_asked = True


def parse_once() -> None:
    """Let OmegaConf parse each text with `${...}` once: a composition has most of them more than once.

    That was a sixth of the time that composing takes. What the parser makes of a text is read and never changed.
    """
    own: Any = base
    other: Any = _utils
    if not hasattr(own.parse, "cache_info"):
        own.parse = other.parse = functools.lru_cache(4096)(own.parse)


def copy_notes_quickly() -> None:
    """Let a node's copy take over its notes (types, flags, key), which Python would copy field by field.

    Configs are copied all the time that they are composed.
    """

    def copied(self: Any, memo: Any) -> Any:
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        made.flags = None if self.flags is None else dict(self.flags)
        made.resolver_cache = copy.deepcopy(self.resolver_cache, memo) if self.resolver_cache else defaultdict(dict)
        return made

    own: Any = base.Metadata
    own.__deepcopy__ = copied


def read_once() -> None:
    """Let a file of the tree be parsed once, and again when its text is another: most files are in every config."""
    own: Any = OmegaConf
    read = own.load
    if hasattr(read, "texts"):
        return
    texts: dict[str, Any] = {}

    def load(file_: Any) -> Any:
        if not hasattr(file_, "seek"):
            return read(file_)
        text = file_.read()
        if text not in texts:
            file_.seek(0)  # an error names the file
            texts[text] = read(file_)
            vars(texts[text]._metadata)["text"] = text  # of its copies too: for `merge_once`
        return copy.deepcopy(texts[text])

    own.load = staticmethod(load)
    own.load.texts = texts


def merge_once() -> None:
    """Let the options that a command line chooses be merged once, whatever values it gives besides.

    It is a third of composing, and the jobs of a sweep mostly choose the same. An option is known by the text of its
    file, or by what is stored, so that one that has changed is another.
    """
    own: Any = ConfigLoaderImpl
    merge = getattr(own, "_compose_config_from_defaults_list", None)
    if merge is None or hasattr(merge, "kept"):
        return
    kept: dict[Any, Any] = {}

    @functools.wraps(merge)
    def merged(self: Any, defaults: Any, repo: Any) -> Any:
        found = [repo.load_config(config_path=each.config_path) for each in defaults]
        paths = [each.config_path for each in defaults]
        nodes = [stored(path.rpartition("/")[2], path.rpartition("/")[0]) for path in paths]  # or the schema of a file
        texts = [
            None if each.path.startswith("structured:") else vars(each.config._metadata).get("text") for each in found
        ]
        if any(text is None is node for text, node in zip(texts, nodes, strict=True)):
            return merge(self, defaults=defaults, repo=repo)
        key = tuple(
            (each.config_path, each.package, each.primary, text, id(node))
            for each, text, node in zip(defaults, texts, nodes, strict=True)
        )
        if key not in kept:
            if len(kept) >= 100:
                kept.clear()
            made = merge(self, defaults=defaults, repo=repo)
            OmegaConf.clear_cache(made)  # it has the time of day
            kept[key] = made, nodes  # which keeps the id of each node its own
        return copy.deepcopy(kept[key][0])

    own._compose_config_from_defaults_list = merged
    own._compose_config_from_defaults_list.kept = kept


def silence_advice() -> None:
    """Suppress Hydra's advice to name presets differently from their schemas."""
    warnings.filterwarnings("ignore", _NOT_ADVISED)


@contextmanager
def composed(
    folder: str, name: str, overrides: list[str], config_dir: Path | None = None
) -> Iterator[tuple[DictConfig, str, dict[str, str | None]]]:
    """Yield the config that Hydra composes, its run directory, and the option of each group, as its command line would.

    `config_dir` is a folder of further configs, as --config-dir gives it: those of `folder` go first.
    `compose` in Python gives the same as the command: `${hydra:...}` is looked up in the composed config, and a process
    may compose any number of times.
    """
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(folder, **_VERSION_BASE):
        if config_dir is not None:
            GlobalHydra.instance().clear()
            places = create_config_search_path(folder)
            places.prepend("command-line", f"file://{config_dir.absolute()}", SearchPathQuery(provider="schema"))
            Hydra.create_main_hydra2(task_name="app", config_search_path=places)
        cfg = hydra.compose(name, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        run_dir, choices = str(cfg.hydra.run.dir), {str(k): v for k, v in cfg.hydra.runtime.choices.items()}
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, run_dir, choices
    finally:
        HydraConfig.instance().cfg = None


def run_command_line(folder: str, name: str, job: Callable[[DictConfig], Any]) -> None:
    """Let Hydra process sys.argv: it sweeps, shows the config, or completes a line; errors are raised, not printed."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.main(config_path=folder, config_name=name, **_VERSION_BASE)(job)()


def in_quotes(text: str) -> str:
    """Return a text in the quotes of Hydra's grammar, so that a value may hold any character."""
    return QuotedString(text, Quote.single).with_quotes()


def parsed(value: str) -> Any:
    """Return the value that Hydra parses from an override; raises HydraException if it cannot."""
    return OverridesParser.create().parse_override(f"key={value}").value()


def swept_keys(overrides: list[str]) -> dict[str, bool]:
    """Return the key of each override, and whether it is swept over; swept keys name a job's directory."""
    found = OverridesParser.create().parse_overrides(overrides)
    return {override.get_key_element(): override.is_sweep_override() for override in found}  # the last one wins


class UnknownOption(NamedTuple):
    """A mistake of the user: an option that its group does not have."""

    group: str
    option: str
    options: list[str]


class KeyMistake(NamedTuple):
    """A mistake of the user: a key that its owner does not have, or (`why`) a value that does not fit."""

    key: str  # the full key
    name: str  # its last part
    owner: Any  # a dataclass, dict, or None
    why: str | None


def unknown_option(error: Exception) -> UnknownOption | None:
    """Return the option and group that an error of Hydra reports as missing, with the options that exist."""
    if not isinstance(error, MissingConfigException):
        return None
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    return UnknownOption(group, option, sorted(error.options or []))


def key_mistake(error: Exception) -> KeyMistake | None:
    """Return the key that an error of Hydra or OmegaConf is about, with its full name."""
    cause: Any = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if not getattr(cause, "full_key", None):
        return None
    if isinstance(cause, ValidationError):
        return KeyMistake(str(cause.full_key), str(cause.key), cause.object_type, str(cause.msg).splitlines()[0])
    if isinstance(cause, ConfigKeyError | AttributeError):
        found: Any = cause
        return KeyMistake(str(found.full_key), str(found.key), found.object_type, None)
    if isinstance(cause, OmegaConfBaseException):  # of ${...}
        return KeyMistake(str(cause.full_key), str(cause.key), None, str(cause.msg or cause).splitlines()[0])
    return None


def overridden_key(error: Exception) -> str | None:
    """Return the key of an override that matches nothing; only the text of the error has it."""
    match = _NO_SUCH_KEY.match(str(error))
    return match[1] if match else None


def misfit(error: Exception) -> tuple[str, str] | None:
    """Return an override that does not fit, and why: where the error names no key of its own."""
    match = _NOT_MERGED.match(str(error))
    return (match[1], str(error.__cause__ or "it does not fit").strip().splitlines()[0]) if match else None


def start_launcher(config: DictConfig) -> None:
    """Do the setup that every Hydra launcher begins with."""
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)


def compose_job(context: HydraContext, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the config of a job of a sweep."""
    return context.config_loader.load_sweep_config(config, list(overrides))


def prepare_job(
    context: HydraContext,
    config: DictConfig,
    overrides: Sequence[str],
    number: int,
    prepare: Callable[[DictConfig], Any],
) -> tuple[JobReturn, Any, Exception | None]:
    """Compose a job of a sweep and call `prepare` on it.

    Returns Hydra's record with what `prepare` returned or raised: one refused job does not end the others, since Hydra
    raises only when the value is asked for.
    """
    cfg = compose_job(context, config, overrides)
    with open_dict(cfg):
        cfg.hydra.job.id, cfg.hydra.job.num = str(number), number
    record = run_job(
        task_function=prepare,
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )
    if record.status == JobStatus.FAILED:
        return record, None, record._return_value
    return record, record.return_value, None


def complete_job(record: JobReturn, value: float) -> None:
    """Give a sweeper the value that it minimises, also for a job that failed."""
    record.status, record.return_value = JobStatus.COMPLETED, value
