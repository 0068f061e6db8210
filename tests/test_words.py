"""Docstrings are plain sentences, and no text of the project has archaic turns."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

TRIVIAL = 4  # lines of a function whose name and signature say it all
QUESTIONS = {"What", "Whether", "Of", "How", "Where", "Why", "When", "Which", "As", "Those", "All", "From", "Its"}
NOUN_PHRASES = {
    "The",
    "A",
    "An",
    "One",
    "Each",
    "Every",
    "Everything",
    "This",
}  # say what a thing is, not what one does
ARCHAIC = """
has it not | have it not | has them not | in the mean | anew | so many as | thereof | hereby | whither | whence | the mend
of old | lest | shall | upon which | trouble with | nought | aught | naught | save for | withal | therein | wherein
whoever asks | somebody else | nobody knows | nobody has | as they please
""".replace("\n", " | ")
ARCHAIC_TEXT = re.compile(
    r"\b(" + "|".join(phrase.strip() for phrase in ARCHAIC.split("|") if phrase.strip()) + r")\b", re.IGNORECASE
)


def documented() -> Iterator[tuple[str, Documented, str | None]]:
    """Yield each module, class and function of src/: its place, its node, and its docstring."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Documented):
                line = getattr(node, "lineno", 1)
                where = f"{path.relative_to(ROOT)}:{line}: {getattr(node, 'name', 'module')}"
                yield where, node, ast.get_docstring(node)


def is_property(node: Documented) -> bool:
    """Tell properties, which are described as what they are, from functions, which do something."""
    decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
    return any(each.endswith("property") or each.endswith(".setter") for each in decorators)


def first_paragraph(text: str) -> str:
    """Return the first paragraph on one line."""
    return " ".join(text.split("\n\n")[0].split())


@pytest.mark.slow
def test_public_parts_have_docstrings() -> None:
    missing = []
    for where, node, text in documented():
        name = getattr(node, "name", "module")
        if text is not None or name.startswith("_"):
            continue
        if isinstance(node, ast.Module):
            missing += [where] if node.body else []  # an empty __init__.py says nothing
        elif isinstance(node, ast.ClassDef) or node.col_offset == 0:
            long = node.body[-1].end_lineno - node.body[0].lineno + 1 > TRIVIAL
            missing += [where] if long else []
    assert missing == []


@pytest.mark.slow
def test_docstrings_begin_with_a_sentence() -> None:
    wrong = []
    for where, _, text in documented():
        first = first_paragraph(text or "The.")
        if not (re.match(r"[A-Z]|`|gptlab", first) and first.endswith(".")):
            wrong.append(f"{where}: {first}")
    assert wrong == []


def test_docstrings_say_what_a_function_does_and_what_a_thing_is() -> None:
    wrong = []
    for where, node, text in documented():
        word = re.split(r"\W", first_paragraph(text or "Text"))[0]
        does = isinstance(node, ast.FunctionDef) and not is_property(node)
        if word in QUESTIONS or (does and word in NOUN_PHRASES):
            wrong.append(f"{where}: {first_paragraph(text or '')}")
    assert wrong == []


def test_no_archaic_turns() -> None:
    places = [*SOURCES, *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml"), *ROOT.glob("*.md")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in places
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for match in ARCHAIC_TEXT.finditer(line)
    ]
    assert found == []
