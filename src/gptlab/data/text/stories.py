"""Tell short stories in simple words by a grammar: text like TinyStories (Eldan and Li 2023) with nothing to download.

Each story keeps its names, its pronouns and its things from beginning to end, which is what a small model has to learn.
"""

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

from gptlab.data.text.story_plots import (
    ANIMALS,
    BEGIN,
    BOYS,
    FEARS,
    FOODS,
    GIRLS,
    GROWN_UPS,
    HE,
    HOMES,
    LOOKS,
    OPEN,
    PLACES,
    PLOTS,
    SEEDS,
    SHE,
    THINGS,
    TRAITS,
    WHEN,
    Person,
)

T = TypeVar("T")
VERSION = 1  # of the stories: raised whenever one changes


def told(stories: int, seed: int) -> Iterator[str]:
    """Yield stories; the same ones for the same seed, by any version of Python."""
    for number in range(stories):
        yield _Teller(random.Random(f"{VERSION} {seed} {number}")).story()


class _Teller:
    """Tells one story."""

    def __init__(self, draws: random.Random) -> None:
        self.draws = draws

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[int(self.draws.random() * len(choices))]  # `choice` differs between versions of Python

    def person(self, but: str = "") -> Person:
        """Return a child or an animal of another name than `but`."""
        while True:
            if self.draws.random() < 0.5:
                girl = self.draws.random() < 0.5
                found = Person(self.one_of(GIRLS if girl else BOYS), "girl" if girl else "boy", *(SHE if girl else HE))
            else:
                kind = self.one_of(tuple(ANIMALS))
                which = int(self.draws.random() * 2)
                found = Person(ANIMALS[kind][which], kind, *((HE, SHE)[which]))
            if found.name != but:
                return found

    def story(self) -> str:
        hero = self.person()
        friend = self.person(but=hero.name)
        place = self.one_of(tuple(PLACES))
        spots = sorted(PLACES[place], key=lambda _: self.draws.random())
        item, look = self.one_of(THINGS), self.one_of(LOOKS)
        adult, fear = self.one_of(tuple(GROWN_UPS)), self.one_of(tuple(FEARS))
        thing = f"{look} {item}"
        known = {
            "hero": hero,
            "friend": friend,
            "place": place,
            "at": f"{'at' if place in OPEN else 'in'} the {place}",
            "spot": spots[0],
            "other_spot": spots[1],
            "last_spot": spots[2],
            "item": item,
            "look": look,
            "thing": thing,
            "a_thing": f"{'an' if look[0] in 'aeiou' else 'a'} {thing}",
            "adult": adult,
            "adult_he": GROWN_UPS[adult][0],
            "food": self.one_of(FOODS),
            "seed": self.one_of(SEEDS),
            "fear": fear,
            "surprise": FEARS[fear].format(hero=hero),
            "home": self.one_of(HOMES),
            "trait": self.one_of(TRAITS),
            "when": self.one_of(WHEN),
            "when_later": self.one_of(("one evening", "the next day", "on a rainy day")),
        }
        moments = [BEGIN, *PLOTS[self.one_of(tuple(PLOTS))]]
        told = [self.one_of(ways).format(**known) for ways in moments]
        return " ".join(told[:3]) + "\n\n" + " ".join(told[3:6]) + "\n\n" + " ".join(told[6:]) + "\n"
