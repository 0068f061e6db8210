"""Build callbacks and loggers that a config names by class, or as registered options of other packages."""

import inspect
from typing import Any

from gptlab import registry
from gptlab.errors import UserError, reason, require
from gptlab.plugins import find_class, require_allowed


def checked(asked: Any, package: str, key: str) -> dict[str, Any]:
    """Return a part that is named by its class or as a registered option, with `class` in place of `_target_`.

    Raises UserError for a class that is neither Lightning's nor an enabled plugin's.
    """
    todo = f"give {key}._target_=CLASS or {key}.option=NAME"
    require(isinstance(asked, dict), key, asked, "is no part", todo)
    values = dict(asked)
    if "_target_" in values:
        values = {"class": str(values.pop("_target_")), **values}
    require(("class" in values) != ("option" in values), key, list(values), "names no class and no option", todo)
    if "class" in values:
        require_allowed(values["class"], package, f"{key}._target_")
    return values


def found(values: dict[str, Any], package: str, group: str, key: str) -> Any:
    """Return the class of a part, or its registered config; raises UserError if there is none."""
    if "class" in values:
        return find_class(values["class"], package, key)
    options, name = registry.options(group), values["option"]
    todo = f"choose one of {', '.join(options)}" if options else "enable the plugin that has it: plugins=[NAME]"
    require(name in options, key, name, "no such option", todo)
    return options[name]


def require_arguments(values: dict[str, Any], package: str, group: str, key: str) -> None:
    """Refuse a part that cannot be found, or whose arguments it does not take, before it is made."""
    arguments = _arguments(values)
    try:
        inspect.signature(found(values, package, group, key)).bind(**arguments)
    except TypeError as error:
        raise UserError(key, arguments, reason(error), "see what it takes") from error


def made(values: dict[str, Any], package: str, group: str, key: str) -> Any:
    """Return a part with its arguments; raises UserError if they do not fit."""
    kind = found(values, package, group, key)
    arguments = _arguments(values)
    try:
        part = kind(**arguments)
    except Exception as error:  # whatever its code raises
        raise UserError(key, arguments, reason(error), "see what it takes") from error
    return part.build() if "option" in values else part


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("class", "option")}
