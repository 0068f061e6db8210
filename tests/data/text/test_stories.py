"""Stories that a grammar tells: always the same ones, and each keeps to its names and pronouns."""

import hashlib
import re
from collections import Counter

import pytest

from gptlab.config import compose
from gptlab.data.text.stories import told
from gptlab.data.text.story_plots import ANIMALS, BOYS, GIRLS, PLOTS
from gptlab.errors import UserError

# of the stories of each plot
WORDS = {
    "lost": "there was no |was gone|woke up without it",
    "share": "May I have|smells so good|Is that",
    "brave": "I am not brave|I am too small|Please do not laugh",
    "make": "too much salt|turned black|dropped the bowl",
    "warned": "loud crack|slipped and fell|threw it high",
    "grow": " seed",
}


def test_the_stories_of_a_version_never_change() -> None:
    """Where they do, raise VERSION, and put the new hash here."""
    assert hashlib.sha256("".join(told(200, 0)).encode()).hexdigest() == (
        "294e4021b5bbc81adda3999e59f0926a1eb871689f237a0bd2b050e0106737d7"
    )
    assert list(told(3, 0)) == list(told(9, 0))[:3] != list(told(3, 1))


def test_no_two_are_the_same_and_every_plot_is_told() -> None:
    stories = list(told(2000, 7))
    assert len(set(stories)) == 2000
    assert not re.search(r"[{}]|\b(a [aeiou]|an [^aeiou])|\.\.|  ", "".join(stories))
    plots = [[plot for plot, words in WORDS.items() if re.search(words, story)] for story in stories]
    assert all(len(found) == 1 for found in plots) and WORDS.keys() == PLOTS.keys()
    assert min(Counter(found[0] for found in plots).values()) > 250


def test_a_story_has_one_hero_and_their_pronoun() -> None:
    """Of a story whose friend has the hero's pronoun no other one is left."""
    he = dict.fromkeys(BOYS, True) | {names[0]: True for names in ANIMALS.values()}
    he |= dict.fromkeys(GIRLS, False) | {names[1]: False for names in ANIMALS.values()}
    alike = 0
    for story in told(500, 3):
        people = [name for name in dict.fromkeys(re.findall(r"\b[A-Z]\w+\b", story)) if name in he]
        assert 1 <= len(people) <= 2
        adults = re.findall(r"\b(?:[Hh]is|[Hh]er) (?:mom|dad|grandma|grandpa|aunt|uncle)\b", story)
        if len({he[name] for name in people}) == 1 and not adults:
            alike += 1
            wrong = r"\b(she|her)\b" if he[people[0]] else r"\b(he|him|his)\b"
            assert not re.search(wrong, story, re.IGNORECASE), story
    assert alike > 50


@pytest.mark.parametrize("stories", [1, 0, -1, 10**8 + 1])
def test_what_cannot_be_told(stories: int) -> None:
    with pytest.raises(UserError, match=f"^data.stories={stories}: is not in 2 to 100000000; 5000 are 2.6 MB$"):
        compose("train", ["data=stories", f"data.stories={stories}"])


def test_the_source_tells_as_many_as_it_is_asked_for() -> None:
    data = compose("train", ["data=stories", "data.stories=12", "data.story_seed=5"]).data
    chunks = list(data.chunks())
    assert [chunk.text for chunk in chunks] == list(told(12, 5)) and all(chunk.begins for chunk in chunks)
    others = (compose("train", ["data=stories", *more]).data for more in ([], ["data.stories=12"]))
    assert len({str(each.version()) for each in (data, *others)}) == 3
