"""Register the options of configs and the verbs of the command line, and find both by name.

`@option(group, name)` registers the config dataclass of a part, `@command` the function of a verb. There is no list:
the modules of gptlab that register something are found by the text of their source, and imported when needed.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

Part = TypeVar("Part", bound=type)
Verb = TypeVar("Verb", bound=Callable[..., Any])
AfterSweep = Callable[[list[dict[str, Any]]], dict[str, Any]]
ExitCode = Callable[[dict[str, Any]], int]

PACKAGE = Path(__file__).parent
_OPTIONS: dict[str, dict[str, type]] = {}
_NAMES: dict[type, tuple[str, str]] = {}
_COMMANDS: dict[str, Command] = {}
_OPTION_LINE = re.compile(r"^@(?:\w+\.)?option\(", re.MULTILINE)
_VERB_LINES = re.compile(
    r'^@(?:\w+\.)?command\b.*?^def (?P<name>\w+)\(.*?"""(?P<help>.*?)(?:\.\s|\.?"""|\n\n)', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Command:
    """A verb: its function takes a config and returns the value that `json=true` prints."""

    name: str
    function: Callable[..., dict[str, Any] | None]
    config: str  # the name of its primary config
    after_sweep: AfterSweep | None
    exit_code: ExitCode | None = None  # of an answer; None: 0

    @property
    def config_type(self) -> type:
        """The dataclass of its config, which is the annotation of the function's only parameter."""
        annotation = next(value for key, value in self.function.__annotations__.items() if key != "return")
        if isinstance(annotation, str):
            annotation = eval(annotation, vars(sys.modules[self.function.__module__]))
        assert isinstance(annotation, type)
        return annotation


def option(group: str, name: str) -> Callable[[Part], Part]:
    """Register a config dataclass as option `name` of a config group: `@option("decoder", "top_p")` above the class.

    Raises ValueError if another class has that name already.
    """

    def register(part: Part) -> Part:
        taken = _OPTIONS.setdefault(group, {}).get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (part.__module__, part.__qualname__):
            raise ValueError(f"{group}={name} is registered by {taken.__module__}.{taken.__qualname__} already")
        _OPTIONS[group][name] = part
        _NAMES[part] = (group, name)
        return part

    return register


@overload
def command(function: Verb, /) -> Verb: ...
@overload
def command(
    *, config: str | None = None, after_sweep: AfterSweep | None = None, exit_code: ExitCode | None = None
) -> Callable[[Verb], Verb]: ...
def command(
    function: Any = None,
    /,
    *,
    config: str | None = None,
    after_sweep: AfterSweep | None = None,
    exit_code: ExitCode | None = None,
) -> Any:
    """Register a function as a verb of the command line: `@command` above `def sample(config: SampleConfig)`.

    The verb has the function's name, without a trailing `_`. `config` names the primary config if it is not the verb's
    own; `after_sweep` turns the results of `-m`, each with the `overrides` of its job, into one; `exit_code` says with
    which code an answer ends the command. Raises ValueError if another function has that name already.
    """

    def register(function: Verb) -> Verb:
        name = function.__name__.removesuffix("_")
        taken = _COMMANDS.get(name)
        if taken is not None and taken.function.__module__ != function.__module__:
            raise ValueError(f"the verb {name} is registered by {taken.function.__module__} already")
        _COMMANDS[name] = Command(name, function, config or name, after_sweep, exit_code)
        return function

    return register if function is None else register(function)


def options(group: str) -> dict[str, type]:
    """Return the registered classes of a group by name."""
    import_own_parts()
    return dict(_OPTIONS.get(group, {}))


def groups() -> list[str]:
    """Return the names of all groups that have an option."""
    import_own_parts()
    return list(_OPTIONS)


def option_of(part: Any) -> tuple[str, str] | None:
    """Return the (group, name) under which a class, or the class of an object, is registered; None if it is not."""
    return _NAMES.get(part if isinstance(part, type) else type(part))


def name_of(part: Any) -> str:
    """Return the name of the option that a class, or that of an object, is registered as; its own name if it is not."""
    named = option_of(part)
    return named[1] if named else (part if isinstance(part, type) else type(part)).__name__


def verbs() -> dict[str, str]:
    """Return one line of help for each verb, without importing gptlab's own verbs."""
    own = {name: text for name, (_, text) in _own_verbs().items()}
    others = {name: _first_sentence(each.function.__doc__ or "") for name, each in _COMMANDS.items()}
    return dict(sorted({**others, **own}.items()))


def find_command(name: str) -> Command:
    """Return a verb by its name; raises KeyError if there is none."""
    if name in (own := _own_verbs()):
        importlib.import_module(own[name][0])
    return _COMMANDS[name]


@functools.cache
def import_own_parts() -> None:
    """Import every module of gptlab that registers an option."""
    for module, source in _sources(PACKAGE, "**/*.py"):
        if _OPTION_LINE.search(source):
            importlib.import_module(module)


@functools.cache
def _own_verbs() -> dict[str, tuple[str, str]]:
    """Return the module and the help of each verb in gptlab/commands, from the text of the files."""
    found = {}
    for module, source in _sources(PACKAGE / "commands", "*.py"):
        for verb in _VERB_LINES.finditer(source):
            found[verb["name"].removesuffix("_")] = (module, _first_sentence(verb["help"]))
    return found


def _sources(folder: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each other module in a folder of gptlab."""
    for path in sorted(folder.glob(pattern)):
        if path != Path(__file__) and PACKAGE / "examples" not in path.parents:  # the template of `new`
            yield ".".join(("gptlab", *path.relative_to(PACKAGE).with_suffix("").parts)), path.read_text("utf-8")


def _first_sentence(text: str) -> str:
    """Return the first sentence of a docstring on one line."""
    sentence = re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    return sentence[:1].lower() + sentence[1:]
