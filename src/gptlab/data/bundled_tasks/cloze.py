"""Make the task `cloze`: the last word of a paragraph of the bundled text, among last words of other paragraphs."""

import re

import numpy as np

from gptlab.data.bundled_tasks.material import Material, Record, choices

FEWEST_WORDS = 12  # of a paragraph
LONGEST = 300  # characters of a context: the last ones
LAST = re.compile(r"(?P<context>.*\w)(?P<word> [a-z]{4,})\.", re.DOTALL)


def records(material: Material, generator: np.random.Generator) -> list[Record]:
    """Return an item for each paragraph of prose that ends with a word of four letters or more."""
    found: dict[str, str] = {}
    for document in material.documents:
        for paragraph in re.split(r"\n\s*\n", document):
            match = LAST.fullmatch(paragraph.strip())
            if match and len(paragraph.split()) >= FEWEST_WORDS and material.is_new(paragraph):
                found[_end(match["context"])] = match["word"]
    return choices(list(found), list(found.values()), generator)


def _end(text: str) -> str:
    """Return the end of a text, from the beginning of a word."""
    return text if len(text) <= LONGEST else text[-LONGEST:].partition(" ")[2]
