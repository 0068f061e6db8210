"""Read the English that every Python includes: its language reference and its standard library's docstrings."""

import ast
import hashlib
import json
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from gptlab.errors import UserError
from gptlab.files import cache_dir, write_atomically


def english() -> list[str]:
    """Return a document for each topic of the reference and each module's docstrings; read once and cached."""
    cached = cache_dir() / "bundled" / f"{version()}.json"
    if not cached.exists():
        stdlib = Path(sysconfig.get_path("stdlib"))
        write_atomically(cached, json.dumps([*_language_reference(), *_docstrings(stdlib)]).encode())
    documents: list[str] = json.loads(cached.read_bytes())
    return documents


def version() -> str:
    """Return the version of the text: that of this Python and its folder."""
    key = f"{platform.python_version()} {sysconfig.get_path('stdlib')} 1"
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _language_reference() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            "data", "bundled", "this Python carries no pydoc_data", "use data=text data.files=[...]"
        ) from error
    return [text for _, text in sorted(topics.items())]


def modules(stdlib: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the path and the syntax tree of each module of the standard library but its tests."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    for path in sorted(stdlib.rglob("*.py")):
        if left_out.intersection(path.relative_to(stdlib).parts):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings of the library
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # lib2to3 has files for other Python versions
        yield path, tree


def _docstrings(stdlib: Path) -> Iterator[str]:
    """Return a document for each module that has docstrings."""
    yield from filter(None, (document(tree) for _, tree in modules(stdlib)))


def document(tree: ast.Module) -> str:
    """Return all docstrings of a module as one text, in the order of the source."""
    return "\n\n".join(_docstrings_of(tree))


def _docstrings_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from filter(None, [ast.get_docstring(node)])
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):  # definitions stand among statements, never inside expressions
            yield from _docstrings_of(child)
