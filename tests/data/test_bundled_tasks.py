"""The bundled tasks: what is tested is in nothing that was learned from, and whoever does not read is right by chance."""

import ast
import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptlab.data.bundled_tasks import agreement, code, material
from gptlab.data.bundled_tasks.bundled_task import TASKS, items, lessons
from gptlab.data.bundled_tasks.copying import copied, induced
from gptlab.data.bundled_tasks.material import Material, choices, words
from gptlab.data.bundled_tasks.sentiment import TURNED, WORDS, records
from gptlab.data.text.instructions import Instructions
from gptlab.data.text.sources import Bundled
from gptlab.data.text.splits import divide, survey
from gptlab.errors import UserError

CHOICES = [task for task in TASKS if task != "tldr"]


def texts_of(item: dict[str, Any]) -> Iterator[str]:
    """Yield the prompt of an item, and, where it is not one of a few labels, its answer."""
    yield item.get("context") or item["prompt"]
    if item.get("choices", [""])[0] not in (" positive", " negative", " is", " are"):
        yield item["choices"][item["answer"]] if "choices" in item else item["reference"]


@pytest.mark.slow
def test_no_test_item_has_been_seen() -> None:
    """Neither in training items nor in what data=bundled trains on."""
    chunks = list(Bundled().chunks())
    found = survey(chunks, Bundled().val_fraction)
    trained_on = words("\n\n".join(chunk.text for part, chunk in divide(chunks, found) if part == "train"))
    for task in TASKS:
        train, test = items(task, "train"), items(task, "test")
        assert len(test) >= 200 and len(train) >= 1000
        assert not {next(texts_of(each)) for each in train} & {next(texts_of(each)) for each in test}
        assert len({next(texts_of(each)) for each in test}) == len(test)
    for item in items("qa", "test"):
        assert words(item["choices"][item["answer"]]) not in trained_on
    for item in items("cloze", "test"):
        assert words(item["context"] + item["choices"][item["answer"]] + ".") not in trained_on
    for item in items("tldr", "test"):
        assert words(item["prompt"].removesuffix("TL;DR:")) not in trained_on
    for item in items("code", "test"):
        assert words(item["context"]) not in trained_on


@pytest.mark.slow
def test_code_asks_for_the_only_name_that_is_there_already() -> None:
    """Whoever reads by this rule, the oracle, is always right; no docstring is part of what is read."""
    for item in [*items("code", "test"), *items("code", "train")]:
        there = [name for name in item["choices"] if name in re.findall(r"\w+", item["context"])]
        assert there == [item["choices"][item["answer"]]] and len(item["context"]) <= 400


def test_code_of_a_toy() -> None:
    """Four functions of which each takes the others' names as choices; the rest have their names, too."""
    source = "def {0}({1}):\n    # {2}\n    if {1} is None:\n        return 0\n    return {1}\n"
    names = ["width", "width", "width", "height", "height", "colour", "colour", "weight"]
    functions = [source.format(f"f{i}", name, "a comment that is long enough, " * 4) for i, name in enumerate(names)]
    made = code.records(Material([], [], functions=functions), np.random.default_rng(0))
    assert len(made) == 4 and {frozenset(each["choices"]) for each in made} == {frozenset(made[0]["choices"])}
    for item in made:
        name = item["choices"][item["answer"]]
        (whole,) = [f for f in functions if f.startswith(item["context"])][:1]
        assert re.match(rf"{name}\b", whole[len(item["context"]) :]) and re.search(rf"\b{name}\b", item["context"])
    assert sum(each["choices"].count(each["choices"][0]) for each in made) == 4
    seen = words("\n".join(functions[:-1]))
    assert code.records(Material([], [], functions=functions, seen_code=seen), np.random.default_rng(0)) == []
    assert (
        code.records(Material([], [], words(" ".join(functions)), functions=functions), np.random.default_rng(0)) == []
    )


def test_the_source_of_functions_has_no_docstring(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        'class A:\n    def f(self, x):\n        """What it does,\n        on two lines."""\n        return x\n\n'
        'def g(): "in one line"; return 1\n\ndef h(y):\n    return y  # a comment\n'
    )
    found = list(material.functions_of(tmp_path / "m.py", ast.parse((tmp_path / "m.py").read_text())))
    assert sorted(found) == ["def f(self, x):\n    return x\n", "def h(y):\n    return y  # a comment\n"]


@pytest.mark.slow
@pytest.mark.parametrize("task", CHOICES)
def test_a_model_that_reads_no_context_is_right_by_chance(task: str) -> None:
    """Scores of the choices by themselves: by a hash, by their lengths, by how often they are an answer."""
    test = items(task, "test")
    often = {choice: 0 for each in test for choice in each["choices"]}
    for each in test:
        often[each["choices"][each["answer"]]] += 1
    blind = {
        "hash": lambda choice: hashlib.sha256(choice.encode()).digest(),
        "length": lambda choice: (len(choice), hashlib.sha256(choice.encode()).digest()),
        "frequency": lambda choice: (often[choice], hashlib.sha256(choice.encode()).digest()),
    }
    chance = 1 / len(test[0]["choices"])
    error = math.sqrt(chance * (1 - chance) / len(test))
    for score in blind.values():
        right = [max(each["choices"], key=score) == each["choices"][each["answer"]] for each in test]
        assert abs(np.mean(right) - chance) < 3 * error
    if len(test[0]["choices"]) == 2:
        assert sum(each["answer"] for each in test) == len(test) / 2
    else:
        positions = np.bincount([each["answer"] for each in test], minlength=4) / len(test)
        assert abs(positions - chance).max() < 4 * error


def test_the_wrong_choices_are_the_answers_of_others_and_each_is_wrong_three_times() -> None:
    answers = [f" {n}" for n in range(50)]
    made = choices([str(n) for n in range(50)], answers, np.random.default_rng(0))
    assert [each["choices"][each["answer"]].strip() == each["context"] for each in made] == [True] * 50
    assert sorted(choice for each in made for choice in each["choices"]) == sorted(answers * 4)
    same = choices(list("abcdef"), [" x", " X", " y", " z", " u", " v"], np.random.default_rng(0))
    assert all(len({choice.casefold() for choice in each["choices"]}) == 4 for each in same) and len(same) < 6


def test_what_comes_again_is_what_came_before() -> None:
    """Read by rules: the word after the last one in what came before, which nothing but the context tells."""
    for make in (copied, induced):
        made = make(400, np.random.default_rng(0))
        assert len({each["context"] for each in made}) == len(made) == 400
        for item in made:
            shown, _, again = item["context"].partition(".\nAgain:")
            before, last = (
                (shown.split()[1:], again.split()[-1:])
                if again or ".\n" in item["context"]
                else (shown.split()[:-1], shown.split()[-1:])
            )
            place = before.index(last[0]) + 1 if last else 0
            assert item["choices"][item["answer"]] == f" {before[place]}" and set(item["choices"]) <= {
                f" {word}" for word in before
            }


def test_the_verb_has_the_number_of_the_subject() -> None:
    made = agreement.records(600, np.random.default_rng(0))
    assert len({each["context"] for each in made}) == 600
    plural = [
        [word.endswith("s") for word in each["context"].split() if word.rstrip("s") in agreement.NOUNS] for each in made
    ]
    assert [subject for subject, _ in plural] == [bool(each["answer"]) for each in made]
    assert 0.4 < np.mean([subject != other for subject, other in plural]) < 0.6


def test_what_a_review_says_is_what_its_last_word_says() -> None:
    made = records(400, np.random.default_rng(0))
    assert len({each["context"] for each in made}) == 400
    turned = 0
    for item in made:
        clauses = [(word in WORDS[1]) ^ negated for word, negated in _judgements(item["context"])]
        assert clauses[-1] == item["answer"] and len(clauses) == 2
        turned += clauses[0] != clauses[1]
        assert (clauses[0] != clauses[1]) == any(_fits(item["context"], form) for form in TURNED)
    assert 0.15 < turned / 400 < 0.35


def _judgements(text: str) -> list[tuple[str, bool]]:
    """Return each word that judges, with whether `not` stands before it."""
    plain = text.split("\n")[0].replace(",", " ").replace(";", " ").replace(".", " ").split()
    known = {*WORDS[0], *WORDS[1]}
    return [(word, plain[place - 1] == "not") for place, word in enumerate(plain) if word in known]


def _fits(text: str, form: str) -> bool:
    parts = [part.strip(" ,;") for part in form.split("{}") if part.strip(" ,;")]
    return all(part in text.lower() for part in parts)


@pytest.mark.slow
def test_they_are_learned_from_as_conversations() -> None:
    lesson, record = lessons("qa")[5], items("qa", "train")[5]
    assert lesson == {"prompt": record["context"], "completion": record["choices"][record["answer"]]}
    assert lessons("tldr")[0]["completion"] == " " + items("tldr", "train")[0]["reference"]
    found = [each["messages"] for each in Instructions(task="qa").examples()]
    assert [message["content"] for message in found[5]] == [lesson["prompt"], lesson["completion"]]
    assert [message["role"] for message in found[5]] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "qaa"}, "task=qaa: no such task; choose one of cloze, qa, tldr, code, sentiment"),
        ({"task": "qa", "files": ["a"]}, "task=qa: and files are given"),
    ],
)
def test_mistakes(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Instructions(**given)


def test_what_is_new_is_told_by_words() -> None:
    assert Material([], [], "one two three").is_new("two four")
    assert not Material([], [], "one two three").is_new("two\n  three")
