"""Make questions and answers of the docstrings that every Python includes: small instruction data without a network."""

import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gptlab.data.text import bundled
from gptlab.files import cache_dir, write_atomically

LONGEST = 300  # characters of an answer
ASKED: dict[type[ast.stmt], str] = {
    ast.FunctionDef: "What does {name}() do?",
    ast.AsyncFunctionDef: "What does {name}() do?",
    ast.ClassDef: "What is {name}?",
}


def about_python() -> list[dict[str, str]]:
    """Return `{"prompt", "completion"}` for each public module, class and function with a docstring; cached."""
    cached = cache_dir() / "bundled" / f"{bundled.version()}-questions.json"
    if not cached.exists():
        found = list(_questions(Path(sysconfig.get_path("stdlib"))))
        write_atomically(cached, json.dumps(found).encode())
    questions: list[dict[str, str]] = json.loads(cached.read_bytes())
    return questions


def _questions(stdlib: Path) -> Iterator[dict[str, str]]:
    for path, tree in bundled.modules(stdlib):
        parts = path.relative_to(stdlib).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if any(part.startswith("_") for part in module.split(".")):
            continue
        asked: list[tuple[str, ast.AST]] = [(f"What is the module {module} for?", tree)]
        for part in tree.body:
            name = getattr(part, "name", "_")
            if type(part) in ASKED and not name.startswith("_"):
                asked.append((ASKED[type(part)].format(name=f"{module}.{name}"), part))
        for question, node in asked:
            if answer := _first_paragraph(node):
                yield {"prompt": question, "completion": answer}


def _first_paragraph(node: ast.AST) -> str:
    """Return the first paragraph of a docstring on one line; nothing where there is none, or it is too long."""
    text = ast.get_docstring(node) or ""  # type: ignore[arg-type]
    paragraph = " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split())
    return paragraph if 0 < len(paragraph) <= LONGEST else ""
