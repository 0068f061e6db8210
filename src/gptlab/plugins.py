"""Enable the parts of other packages: by entry points, a project file, the command line, or the parent process.

A run directory never enables a plugin: the plugins that it names must be enabled here in one of these four ways.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptlab import registry
from gptlab.errors import UserError, reason, require

ENTRY_POINTS = "gptlab.plugins"
INHERITED = "GPTLAB_PLUGINS"  # an environment variable for child processes
_REGISTERS = re.compile(r"^@(?:\w+\.)?(?:option|command)\b", re.MULTILINE)
_enabled: dict[str, Path] = {}  # name -> its folder, or its file
_conf: list[Path] = []


def enable_all(argv: Sequence[str]) -> list[str]:
    """Enable every plugin that this environment, the working directory or the command line names.

    Returns the command line without `plugins=[...]`. Raises UserError if one cannot be imported.
    """
    given = [arg for arg in argv if re.match(r"\+{0,2}plugins=", arg)]
    named = [name.strip("'\" ") for arg in given for name in arg.partition("=")[2].strip("[]").split(",")]
    project = read_project(Path.cwd())
    inherited: dict[str, Any] = json.loads(os.environ.get(INHERITED, "{}"))
    local = [*map(str, project.get("plugins", [])), *filter(None, named), *inherited.get("names", [])]
    folder = str(inherited.get("folder", Path.cwd()))
    if local and folder not in sys.path:
        sys.path.insert(0, folder)
    for name in dict.fromkeys([*_installed(tuple(sys.path)), *local]):
        enable(name)
    for conf in [*inherited.get("conf", []), *([str(Path.cwd() / project["conf"])] if "conf" in project else [])]:
        require(Path(conf).is_dir(), "conf", conf, "no such folder", "mend it in the project file")
        if Path(conf) not in _conf:
            _conf.append(Path(conf))
    if local or _conf:
        told = {"names": list(dict.fromkeys(local)), "folder": folder, "conf": [str(each) for each in _conf]}
        os.environ[INHERITED] = json.dumps(told)
    return [arg for arg in argv if arg not in given]


@functools.cache
def _installed(_: tuple[str, ...]) -> list[str]:
    """Return the modules of the plugins that are installed in the folders of sys.path: looked up once."""
    return [entry.value.partition(":")[0] for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)]


def read_project(folder: Path) -> dict[str, Any]:
    """Return the settings of gptlab.toml, or of [tool.gptlab] in pyproject.toml; {} if there is neither."""
    for name, within in (("gptlab.toml", ()), ("pyproject.toml", ("tool", "gptlab"))):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if not within:
                raise UserError("project", path, f"cannot be read ({reason(error)})", "mend the file") from error
            continue
        for key in within:
            values = values.get(key, {}) if isinstance(values, dict) else {}
        if values:
            fits = isinstance(values, dict) and isinstance(values.get("plugins", []), list)
            require(fits, "project", path, "is not plugins = [...] and conf = ...", "mend the file")
            return dict(values)
    return {}


def enable(name: str) -> None:
    """Import a module or package, and each module in it that registers a part; raises UserError if that fails."""
    if name in _enabled:
        return
    try:
        module = importlib.import_module(name)
        origin = Path(str(module.__file__))
        folder = origin.parent if origin.name == "__init__.py" else origin
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else []:
            if path != origin and _REGISTERS.search(path.read_text(encoding="utf-8")):
                importlib.import_module(".".join((name, *path.relative_to(folder).with_suffix("").parts)))
    except ModuleNotFoundError as error:
        missing = str(error.name) == name.partition(".")[0] or str(error.name) == name
        why = "no such module" if missing else f"needs {error.name}"
        raise UserError("plugins", name, why, "install it, or start from the folder that holds it") from error
    except Exception as error:  # whatever its code raises
        why = f"cannot be imported ({type(error).__name__}: {reason(error)})"
        raise UserError("plugins", name, why, "mend it, or leave it out") from error
    _enabled[name] = folder
    if folder.is_dir() and (folder / "conf").is_dir():
        _conf.append(folder / "conf")


def conf_dirs() -> list[Path]:
    """Return the folders with config presets of the enabled plugins and of the project."""
    return list(_conf)


def any_enabled() -> bool:
    """Return whether this process has enabled a plugin."""
    return bool(_enabled)


def is_enabled(module: str) -> bool:
    """Return whether a module belongs to an enabled plugin."""
    return any(module == name or module.startswith(f"{name}.") for name in _enabled)


def described(modules: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the plugins that some modules belong to, each with its version and the SHA-256 of its source."""
    names = {module.partition(".")[0] for module in modules} - {"gptlab", "__main__", "builtins"}
    return {name: {"version": _version(name), "sha256": source_hash(name)} for name in sorted(names)}


def recorded_option(group: str, name: str, config: Mapping[str, Any], shown: str | None = None, where: str = "") -> Any:
    """Return the class of an option that a run names; `config` is that of the run (`read_config`).

    Raises UserError where it is not an option here, with how to enable it; the option is then called `shown`, and found
    in `where`.
    """
    kind = registry.options(group).get(name)
    if kind is None:
        raise UserError(group, shown or name, f"{where}is not an option here", how_to_enable(config))
    return kind


def recorded_part(group: str, name: str, values: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return an option that a run names, with its values; raises UserError if it is none here or does not take them."""
    kind = recorded_option(group, name, config)
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(group, name, str(error), "take the config.yaml of a run as gptlab wrote it") from error


def how_to_enable(config: Mapping[str, Any]) -> str:
    """Return advice on how to enable the plugins that a run's config names."""
    written = config.get("gptlab")
    used = written.get("plugins") if isinstance(written, Mapping) else None
    if not isinstance(used, Mapping) or not used:
        return "enable the plugin that it comes from: plugins=[NAME]"
    return f"it comes from {', '.join(map(str, used))}: install it, or give plugins=[{','.join(map(str, used))}]"


def find_class(path: str, package: str, key: str) -> Any:
    """Return a class by its dotted path, from a package of Lightning's or an enabled plugin; raises UserError."""
    require_allowed(path, package, key)
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(key, path, f"cannot be found ({reason(error)})", f"see {package} for what there is") from error


def require_allowed(path: str, package: str, key: str) -> None:
    """Refuse a class that is neither in a package of Lightning's nor in an enabled plugin."""
    module = path.rpartition(".")[0]
    ok = module == package or module.startswith(f"{package}.") or is_enabled(module)
    todo = f"take one of {package}, or enable its plugin with plugins=[{module.partition('.')[0] or 'NAME'}]"
    require(ok, key, path, "is not allowed", todo)


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def source_hash(name: str) -> str:
    """Return the SHA-256 of the Python files of a package or module."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return ""
    origin = Path(spec.origin)
    digest = hashlib.sha256()
    for path in sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]:
        digest.update(path.relative_to(origin.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
