"""Make the tasks `copying` and `induction`: what comes next is what came next before (Olsson et al. 2022).

Both are of random words, so that nothing but the context tells the answer. A list gives an item for each of its words
that is asked for, with the same choices: over all items a word is wrong three times for each time it is right.
"""

from collections.abc import Iterator

import numpy as np

from gptlab.data.bundled_tasks.material import OTHERS, Record

WORDS = (
    *("apple", "arm", "ball", "bed", "bell", "bird", "boat", "book", "box", "bread", "bridge", "cake", "car", "cat"),
    *("chair", "clock", "cloud", "coat", "corn", "cup", "desk", "dog", "door", "drum", "egg", "farm", "field", "fire"),
    *("fish", "flag", "floor", "fork", "gate", "glass", "hand", "hat", "hill", "horse", "house", "ice", "iron", "key"),
    *("king", "knife", "lake", "lamp", "leaf", "letter", "map", "milk", "moon", "nail", "nest", "paper", "pen", "pipe"),
    *(
        "plate",
        "rain",
        "ring",
        "river",
        "road",
        "rope",
        "salt",
        "sand",
        "ship",
        "shoe",
        "snow",
        "song",
        "star",
        "stone",
    ),
    *("street", "sugar", "sun", "table", "tent", "tooth", "tower", "tree", "wall", "wheel", "wind", "window", "wood"),
)
LONGEST = 12  # words of a list for `induction`


def copied(number: int, generator: np.random.Generator) -> list[Record]:
    """Return items in which a list of words is repeated, up to the word that is asked for."""
    return _different(number, _copied(generator))


def induced(number: int, generator: np.random.Generator) -> list[Record]:
    """Return items in which one word of a longer list comes again, and what followed it is asked for."""
    return _different(number, _induced(generator))


def _copied(generator: np.random.Generator) -> Iterator[list[Record]]:
    while True:
        words = _drawn(OTHERS + 1, generator)
        whole = " ".join(words)
        begun = [" ".join([f"Words: {whole}.\nAgain:", *words[:place]]) for place in range(len(words))]
        yield [_item(context, words, place, generator) for place, context in enumerate(begun)]


def _induced(generator: np.random.Generator) -> Iterator[list[Record]]:
    while True:
        words = _drawn(int(generator.integers(2 * OTHERS, LONGEST + 1)), generator)
        before = sorted(generator.permutation(len(words) - 1)[: OTHERS + 1].tolist())
        asked = [words[place + 1] for place in before]
        yield [_item(" ".join([*words, words[place]]), asked, number, generator) for number, place in enumerate(before)]


def _drawn(number: int, generator: np.random.Generator) -> list[str]:
    return [WORDS[k] for k in generator.permutation(len(WORDS))[:number]]


def _item(context: str, words: list[str], answer: int, generator: np.random.Generator) -> Record:
    order = generator.permutation(len(words)).tolist()
    return {"context": context, "choices": [f" {words[k]}" for k in order], "answer": order.index(answer)}


def _different(number: int, lists: Iterator[list[Record]]) -> list[Record]:
    """Return the items of so many lists, none of which has an item of another."""
    found: dict[str, Record] = {}
    while len(found) < number:
        items = {item["context"]: item for item in next(lists)}
        if not items.keys() & found.keys():
            found |= items
    return list(found.values())
