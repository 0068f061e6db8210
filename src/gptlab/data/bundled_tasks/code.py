"""Make the task `code`: which name comes next in a function of Python's library, among names of other functions.

The right one has stood in the function before, and the wrong ones have not: whoever looks for the only name that is
there already is always right. Four items have the same choices, so that each is right once, and wrong three times.
"""

import builtins
import functools
import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gptlab.data.bundled_tasks.material import OTHERS, Material, Record, words

SHORTEST, LONGEST = 120, 400  # characters of a context; of a longer one the last lines
FEWEST_LETTERS = 3  # of a name
MOST = 6000  # functions that are looked at
LOOKED_AT = 40  # groups that an item may join
LEFT_OUT = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), "self", "cls"}


@dataclass(frozen=True)
class _Asked:
    """The beginning of a function, and the name that comes next."""

    context: str
    name: str

    def has(self, name: str) -> bool:
        """Tell whether a name stands in the context."""
        return name in self._words

    @functools.cached_property
    def _words(self) -> set[str]:
        return set(re.findall(r"\w+", self.context))


def records(material: Material, generator: np.random.Generator) -> list[Record]:
    """Return at most one item for each function; contexts that the training side has are left out."""
    functions = [material.functions[k] for k in generator.permutation(len(material.functions))[:MOST]]
    asked: dict[str, _Asked] = {}
    for function in functions:
        candidates = list(_candidates(function))
        if candidates:
            chosen = candidates[int(generator.integers(len(candidates)))]
            if material.is_new(chosen.context) and words(chosen.context) not in material.seen_code:
                asked.setdefault(chosen.context, chosen)
    return [item for group in _groups(list(asked.values())) for item in _items(group, generator)]


def _candidates(function: str) -> Iterator[_Asked]:
    """Yield the names of a function that have stood in what is before them, but for those at the start of a line."""
    lines = function.splitlines(keepends=True)
    begins = np.concatenate([[0], np.cumsum([len(line) for line in lines])]).tolist()
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(function).readline))
    except (tokenize.TokenError, IndentationError):
        return
    for token in tokens:
        if token.type != tokenize.NAME or len(token.string) < FEWEST_LETTERS or token.string in LEFT_OUT:
            continue
        context = _end(function[: begins[token.start[0] - 1] + token.start[1]])
        if len(context) < SHORTEST or context[-1] == "\n" or context.endswith("  "):
            continue
        if (found := _Asked(context, token.string)).has(token.string):
            yield found


def _end(text: str) -> str:
    """Return the last lines of a text, as many as there is room for."""
    return text if len(text) <= LONGEST else text[-LONGEST:].partition("\n")[2]


def _groups(every: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """Yield groups of OTHERS + 1 items, none of whose names stands in the context of another."""
    begun: list[list[_Asked]] = []
    for one in every:
        group = next((each for each in begun[-LOOKED_AT:] if all(_apart(one, other) for other in each)), None)
        if group is None:
            begun.append([one])
            continue
        group.append(one)
        if len(group) > OTHERS:
            begun.remove(group)
            yield group


def _apart(one: _Asked, other: _Asked) -> bool:
    return one.name.casefold() != other.name.casefold() and not (one.has(other.name) or other.has(one.name))


def _items(group: Sequence[_Asked], generator: np.random.Generator) -> Iterator[Record]:
    for number, each in enumerate(group):
        order = generator.permutation(len(group)).tolist()
        choices = [group[k].name for k in order]
        yield {"context": each.context, "choices": choices, "answer": order.index(number)}
