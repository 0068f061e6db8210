"""Read what the fields of a dataclass mean from the comments beside them, without importing anything."""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import re
import sys
from typing import Any


def explanation(config_type: type, field: str) -> str:
    """Return the line that explains a field, "" where there is none or no source.

    It is the comment at the end of the field's line, else those right above it, else the text below it; a class that
    gives a field of its base another default need not repeat it.
    """
    for owner in config_type.__mro__:
        if found := _explained(owner).get(field):
            return found
    return ""


def summary(config_type: type) -> str:
    """Return the first sentence of a dataclass's docstring, "" where it has none of its own."""
    text = config_type.__dict__.get("__doc__") or ""
    if text.startswith(f"{config_type.__name__}("):  # a signature, which dataclass() fills in
        return ""
    return re.split(r"\.(?:\s+(?=[A-Z])|$)", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]


@functools.cache
def _explained(owner: type) -> dict[str, str]:
    """Return the explained fields that a class itself defines."""
    lines, tree = _source(owner.__module__)
    node: ast.AST | None = tree
    for name in owner.__qualname__.split("."):
        if name != "<locals>" and node is not None:
            inner = itertools.chain(ast.iter_child_nodes(node), ast.walk(node))  # walking a whole module takes longer
            node = next((each for each in inner if getattr(each, "name", None) == name and each is not node), None)
    if not isinstance(node, ast.ClassDef):
        return {}
    found = dict[str, str]()
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = _beside(lines, field) or _above(lines, field) or _below(after)
            found[field.target.id] = " ".join(text.split())
    return found


@functools.cache
def _source(module: str) -> tuple[list[str], ast.AST]:
    """Return the lines of a module, and what they say; nothing where there is no source that can be read."""
    loaded: Any = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    lines = linecache.getlines(file, vars(loaded)) if file else []  # also from within a zip file
    try:
        return lines, ast.parse("".join(lines))
    except (SyntaxError, ValueError):  # compiled alone, or changed since
        return [], ast.Module([], [])


def _beside(lines: list[str], field: ast.AnnAssign) -> str:
    """Return the comment at the end of a field; columns are counted in bytes."""
    rest = lines[(field.end_lineno or field.lineno) - 1].encode()[field.end_col_offset :].decode()
    return rest.strip().lstrip("#") if rest.lstrip().startswith("#") else ""


def _above(lines: list[str], field: ast.AnnAssign) -> str:
    """Return the comments on the lines right above a field."""
    found: list[str] = []
    for line in reversed(lines[: field.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        found.insert(0, line.strip().lstrip("#"))
    return " ".join(found)


def _below(after: ast.AST | None) -> str:
    """Return the text that stands alone below a field."""
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return after.value.value
    return ""
