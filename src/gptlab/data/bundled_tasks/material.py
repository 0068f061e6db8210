"""Divide the bundled text for tasks: what a model trained on data=bundled has not seen is for tests."""

import ast
import itertools
import sysconfig
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptlab.data.text import bundled
from gptlab.data.text.sources import Bundled
from gptlab.data.text.splits import bucket, divide, survey

Record = dict[str, Any]
OTHERS = 3  # wrong choices of an item


class Docstring(NamedTuple):
    """A docstring with the full name of what it describes, `function`, `class` or `module`."""

    name: str
    kind: str
    text: str


@dataclass(frozen=True)
class Material:
    """The documents of one side, `train` or `test`, what its modules have, and what the other side has seen."""

    documents: list[str]
    docstrings: list[Docstring]
    seen: str = ""  # with single spaces
    functions: list[str] = field(default_factory=list)  # their source, without docstrings
    seen_code: str = ""

    def is_new(self, text: str) -> bool:
        """Tell whether a text stands nowhere in what has been seen."""
        return not self.seen or words(text) not in self.seen


def material() -> dict[str, Material]:
    """Return the material of both sides, divided as data=bundled divides it: `test` is what that holds out."""
    source = Bundled()
    found = survey(source.chunks(), source.val_fraction)
    sides = {"train": Material([], []), "test": Material([], [])}
    for part, chunk in divide(source.chunks(), found):
        sides["train" if part == "train" else "test"].documents.append(chunk.text)
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path, tree in bundled.modules(stdlib):
        side = sides["test" if bucket(bundled.document(tree)) in found.held_out else "train"]
        parts = path.relative_to(stdlib).with_suffix("").parts
        side.docstrings.extend(_described(".".join(parts[:-1] if parts[-1] == "__init__" else parts), tree))
        side.functions.extend(functions_of(path, tree))
    seen, seen_code = (words("\n\n".join(each)) for each in (sides["train"].documents, sides["train"].functions))
    return {**sides, "test": replace(sides["test"], seen=seen, seen_code=seen_code)}


def functions_of(path: Path, tree: ast.Module) -> Iterator[str]:
    """Yield the source of the functions and methods of a module, without docstrings and without indentation."""
    bodies = [tree.body, *(part.body for part in tree.body if isinstance(part, ast.ClassDef))]
    found = [part for body in bodies for part in body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not found:
        return
    with tokenize.open(path) as file:  # in the encoding that it declares
        lines = file.read().splitlines(keepends=True)
    for function in found:
        first, last = function.lineno - 1, function.end_lineno
        own = function.body[0]
        if ast.get_docstring(function) is not None and own.lineno > function.lineno:
            yield textwrap.dedent("".join([*lines[first : own.lineno - 1], *lines[own.end_lineno : last]]))
        elif ast.get_docstring(function) is None:
            yield textwrap.dedent("".join(lines[first:last]))


def words(text: str) -> str:
    """Return a text with single spaces in place of all white space."""
    return " ".join(text.split())


def choices(contexts: list[str], answers: list[str], generator: np.random.Generator) -> list[Record]:
    """Return items, each with its answer among the answers of OTHERS other items, in a random order.

    Items stand in a random circle, and the wrong choices of each are the next answers in it: over all items an answer
    is wrong as often as it is right, so that a model which does not read the contexts is right by chance. Items whose
    choices are not all different are left out.
    """
    circle = generator.permutation(len(answers)).tolist()
    items: list[Record] = []
    for place, number in enumerate(circle):
        members = [number, *(circle[(place + step) % len(circle)] for step in range(1, OTHERS + 1))]
        if len({answers[member].casefold() for member in members}) <= OTHERS:
            continue
        order = generator.permutation(OTHERS + 1).tolist()
        texts = [answers[members[k]] for k in order]
        items.append({"context": contexts[number], "choices": texts, "answer": order.index(0)})
    return items


def _described(module: str, tree: ast.Module) -> Iterator[Docstring]:
    """Yield the docstrings of a module, its public classes and functions, and the public methods of the classes."""
    if any(part.startswith("_") for part in module.split(".")):
        return
    inner = [(part.name, part) for part in tree.body if isinstance(part, ast.ClassDef)]
    nested = [(f"{name}.", part.body) for name, part in inner if not name.startswith("_")]
    bodies = itertools.chain([("", tree.body)], nested)
    if text := ast.get_docstring(tree):
        yield Docstring(module, "module", text)
    for prefix, body in bodies:
        for part in body:
            if not isinstance(part, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or part.name.startswith("_"):
                continue
            if text := ast.get_docstring(part):
                kind = "class" if isinstance(part, ast.ClassDef) else "function"
                yield Docstring(f"{module}.{prefix}{part.name}", kind, text)
