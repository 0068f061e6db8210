"""Make the task `sentiment`: reviews of a small grammar, in which `not` turns a word round and `but` decides."""

import numpy as np

from gptlab.data.bundled_tasks.material import Record

CHOICES = [" positive", " negative"]
WORDS = (
    ("clever", "moving", "funny", "superb", "fresh", "charming", "gripping", "honest", "warm", "brilliant"),
    ("dull", "clumsy", "tedious", "awful", "stale", "confusing", "shallow", "noisy", "cold", "lifeless"),
)  # by the number of the choice
THINGS = ("plot", "acting", "music", "dialogue", "ending", "camera work", "first half", "second half", "cast", "pace")
NEGATED_SHARE, TURNED_SHARE = 0.15, 0.25  # of clauses, and of reviews
SAME = ("{} and {}", "{}, and {}", "{}; besides, {}")  # both clauses say the same
TURNED = ("{}, but {}", "although {}, {}", "{}; all the same, {}")  # the second one counts


def records(number: int, generator: np.random.Generator) -> list[Record]:
    """Return different reviews, a positive and a negative one by turns."""
    found: tuple[dict[str, Record], dict[str, Record]] = ({}, {})
    for label, items in enumerate(found):
        while len(items) < number // 2:
            context = _context(label, generator)
            items[context] = {"context": context, "choices": CHOICES, "answer": label}
    return [item for both in zip(*(items.values() for items in found), strict=True) for item in both]


def _context(label: int, generator: np.random.Generator) -> str:
    turned = bool(generator.random() < TURNED_SHARE)
    one, other = (THINGS[k] for k in generator.permutation(len(THINGS))[:2])
    clauses = _clause(one, label ^ turned, generator), _clause(other, label, generator)
    review = _one_of(TURNED if turned else SAME, generator).format(*clauses)
    return f"Review: {review[0].upper()}{review[1:]}.\nSentiment:"


def _clause(thing: str, label: int, generator: np.random.Generator) -> str:
    """Return such as `the plot was clever`, or `the plot was not dull`, for the same label."""
    negated = bool(generator.random() < NEGATED_SHARE)
    word = _one_of(WORDS[label ^ negated], generator)
    return f"the {thing} was {'not ' if negated else ''}{word}"


def _one_of(texts: tuple[str, ...], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
