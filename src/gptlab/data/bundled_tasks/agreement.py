"""Make the task `agreement`: a verb has the number of its subject, not of a noun between them (Linzen et al. 2016)."""

import itertools

import numpy as np

from gptlab.data.bundled_tasks.material import Record

CHOICES = [" is", " are"]
NOUNS = (
    *("key", "book", "letter", "stone", "picture", "door", "window", "chair", "table", "lamp", "car", "boat", "horse"),
    *("dog", "bird", "teacher", "student", "farmer", "doctor", "singer", "file", "function", "name", "value", "list"),
)
BETWEEN = ("near", "behind", "beside", "above", "under", "next to")
ADVERBS = ("", " always", " often", " never", " here", " still")  # before the verb


def records(number: int, generator: np.random.Generator) -> list[Record]:
    """Return different sentences up to the verb, a singular and a plural one by turns.

    In half of them the noun in between has the other number; all nouns stand in both numbers alike.
    """
    pairs = [(subject, other) for subject, other in itertools.product(NOUNS, NOUNS) if subject != other]
    every = list(itertools.product(pairs, BETWEEN, ADVERBS, (False, True)))
    asked = [every[k] for k in generator.permutation(len(every))[: number // 2]]
    return [
        _item(subject, other, between, adverb, differs, answer)
        for (subject, other), between, adverb, differs in asked
        for answer in range(len(CHOICES))
    ]


def _item(subject: str, other: str, between: str, adverb: str, differs: bool, answer: int) -> Record:
    nouns = f"{subject}{'s' * answer}", f"{other}{'s' * (answer ^ differs)}"
    return {"context": f"The {nouns[0]} {between} the {nouns[1]}{adverb}", "choices": CHOICES, "answer": answer}
