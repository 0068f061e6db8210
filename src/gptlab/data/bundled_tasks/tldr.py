"""Make the task `tldr`: the first paragraph of a docstring, which sums up the rest, after `TL;DR:`.

(Radford et al. 2019, sec. 3.6.)
"""

import re

import numpy as np

from gptlab.data.bundled_tasks.material import Material, Record, words

SHORTEST, LONGEST = 15, 120  # characters of a summary
FEWEST_WORDS, LONGEST_TEXT = 12, 400  # of what is summed up: its words, and the characters that are read


def records(material: Material, generator: np.random.Generator) -> list[Record]:
    """Return a prompt with its reference for each docstring that goes on after a short first paragraph."""
    found: dict[str, str] = {}
    for docstring in material.docstrings:
        first, _, rest = docstring.text.partition("\n\n")
        summary, rest = words(first), _beginning(rest.strip())
        long = len(re.findall(r"[A-Za-z]+", rest)) >= FEWEST_WORDS
        if SHORTEST <= len(summary) <= LONGEST and long and material.is_new(rest):
            found.setdefault(f"{rest}\n\nTL;DR:", summary)
    items = [{"prompt": prompt, "reference": reference} for prompt, reference in found.items()]
    return [items[number] for number in generator.permutation(len(items)).tolist()]


def _beginning(text: str) -> str:
    """Return the beginning of a text, up to the end of a word."""
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT].rpartition(" ")[0].rstrip()
