"""Hold every private or undocumented name of Hydra and OmegaConf that gptlab relies on, one function a promise.

tests/test_contracts.py asserts what each of them takes for granted: raising the version of one means running it. Names
that differ between hydra 1.3 with omegaconf 2.3 and hydra 1.4 with omegaconf 2.4 are chosen here, nowhere else.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

# Hydra's own options that have a value after them
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
    """Let configs say `${name:...}`; OmegaConf 2.4 calls this otherwise, by a name that was another function's."""
    _register(name, resolver, replace=True)


def store(name: str, node: Any, group: str | None = None) -> None:
    """Tell Hydra an option of a group, or a primary config; what had that name is replaced.

    A process composes more than once, each time over another run. Hydra 1.4 wants to be told, 1.5 will raise.
    """
    ConfigStore.instance().store(name=name, node=node, group=group, **_REPLACE)


def is_stored(name: str, group: str) -> bool:
    """Tell whether Hydra knows an option already."""
    found: Any = ConfigStore.instance().repo
    for part in group.split("/"):
        found = found.get(part, {})
    return f"{name}.yaml" in found


def silence_advice() -> None:
    """Keep Hydra from advising that presets be named otherwise than their schemas."""
    warnings.filterwarnings("ignore", _NOT_ADVISED)


@contextmanager
def composed(folder: str, name: str, overrides: list[str]) -> Iterator[tuple[DictConfig, str]]:
    """Yield what Hydra composes, and the run directory that it names, as its command line would.

    `compose` in Python gives what the command gives: `${hydra:...}` is looked up in what is composed, and a process may
    do so as often as it likes.
    """
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(folder, **_VERSION_BASE):
        cfg = hydra.compose(name, overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        run_dir = str(cfg.hydra.run.dir)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg, run_dir
    finally:
        HydraConfig.instance().cfg = None


def run_command_line(folder: str, name: str, job: Callable[[DictConfig], Any]) -> None:
    """Let Hydra read sys.argv: it sweeps, shows the config, or completes a line. Errors come out as they are."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    hydra.main(config_path=folder, config_name=name, **_VERSION_BASE)(job)()


def in_quotes(text: str) -> str:
    """Return a text as Hydra's grammar quotes it, so that a value may hold any character."""
    return QuotedString(text, Quote.single).with_quotes()


def parsed(value: str) -> Any:
    """Return what Hydra makes of the value of an override; raises HydraException where it is none."""
    return OverridesParser.create().parse_override(f"key={value}").value()


def swept_keys(overrides: list[str]) -> dict[str, bool]:
    """Return the key of each override, and whether it is swept over: a job's directory is named by those that are."""
    found = OverridesParser.create().parse_overrides(overrides)
    return {override.get_key_element(): override.is_sweep_override() for override in found}  # the last one counts


class UnknownOption(NamedTuple):
    """An option that its group does not have."""

    group: str
    option: str
    options: list[str]


class KeyMistake(NamedTuple):
    """A key that its owner does not have, or (`why`) a value that does not fit."""

    key: str  # the full one
    name: str  # its last part
    owner: Any  # a dataclass, dict, or None
    why: str | None


def unknown_option(error: Exception) -> UnknownOption | None:
    """Return what an error says of an option that is not there, so that the mistake names those that are."""
    if not isinstance(error, MissingConfigException):
        return None
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    return UnknownOption(group, option, sorted(error.options or []))


def key_mistake(error: Exception) -> KeyMistake | None:
    """Return what an error of Hydra or OmegaConf says of a key, so that the mistake names it in full."""
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
    """Return the key of an override that there is nothing for: only the text of the error has it."""
    match = _NO_SUCH_KEY.match(str(error))
    return match[1] if match else None


def misfit(error: Exception) -> tuple[str, str] | None:
    """Return an override that does not fit, and why: where the error names no key of its own."""
    match = _NOT_MERGED.match(str(error))
    return (match[1], str(error.__cause__ or "it does not fit").strip().splitlines()[0]) if match else None


def start_launcher(config: DictConfig) -> None:
    """Do what every launcher does first."""
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)


def prepare_job(
    context: HydraContext,
    config: DictConfig,
    overrides: Sequence[str],
    number: int,
    prepare: Callable[[DictConfig], Any],
) -> tuple[JobReturn, Any, Exception | None]:
    """Compose a job of a sweep and call `prepare` in it; returns Hydra's record, what it returned, or what it raised.

    One refused job does not end the others: Hydra raises only when the value is asked for.
    """
    cfg = context.config_loader.load_sweep_config(config, list(overrides))
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
    """Tell a sweeper what it minimises, also of a job that failed."""
    record.status, record.return_value = JobStatus.COMPLETED, value
