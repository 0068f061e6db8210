"""Tasks of one's own: every mistake names its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptlab.errors import UserError
from gptlab.evaluation.eval_task import ChoiceItem, SummaryItem, read_tasks

ITEM = {"context": "2+2=", "choices": ["4", "5"], "answer": 0}
PAIR = {"prompt": "Say it.", "reference": "It."}


def write(*lines: Any) -> str:
    Path("own.jsonl").write_text(
        "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines)
    )
    return "own.jsonl"


def test_items_of_both_kinds() -> None:
    (task,) = read_tasks([write(ITEM, {"prompt": "a", "choices": ["b", "c", "d"], "answer": 2, "id": 7})])
    assert task.name == "own"
    assert task.items == [ChoiceItem("2+2=", ("4", "5"), 0), ChoiceItem("a", ("b", "c", "d"), 2)]
    (other,) = read_tasks([write(PAIR)])
    assert other.items == [SummaryItem("Say it.", "It.")] and other.sha256 != task.sha256


MISTAKES = [
    ([ITEM, "{"], "line 2 is not JSON"),
    ([ITEM, "[1]"], "line 2 is no object; give context, choices and answer"),
    (["5"], "line 1 is no object"),
    ([{"choices": ["a", "b"], "answer": 0}], "line 1 has no context"),
    ([{**ITEM, "context": " \n"}], "line 1 has an empty context"),
    ([{**ITEM, "context": 5}], "line 1 has a context that is no text (int)"),
    ([{**ITEM, "context": "\ud800"}], "line 1 has half a character in its context (at 0)"),
    ([ITEM, {"context": "a"}], "line 2 has no list of choices"),
    ([{**ITEM, "choices": ["a"]}], "line 1 has 1 choices; give two or more"),
    ([{**ITEM, "choices": ["a", "a"]}], "line 1 has equal choices"),
    ([{**ITEM, "choices": ["a", 1]}], "line 1 has a choice 1 that is no text"),
    ([{**ITEM, "choices": ["a", ""]}], "line 1 has an empty choice 1"),
    ([ITEM, {**ITEM, "answer": 2}], "line 2 has the answer 2; give the number of the right choice, 0 to 1"),
    ([{**ITEM, "answer": -1}], "line 1 has the answer -1"),
    ([{**ITEM, "answer": True}], "line 1 has the answer True"),
    ([{**ITEM, "answer": "4"}], "line 1 has the answer '4'"),
    ([{"context": "a", "choices": ["b", "c"]}], "line 1 has no answer; give the number"),
    ([PAIR, ITEM], "line 2 has no prompt; give context, choices and answer, or prompt and reference"),
    ([{**PAIR, "reference": ""}], "line 1 has an empty reference"),
    ([""], "has no item"),
]


@pytest.mark.parametrize(("lines", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_names_its_line(lines: list[Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_tasks([write(*lines)])
    assert str(caught.value).startswith(f"tasks=own.jsonl: {said}")


def test_a_name_that_is_none() -> None:
    with pytest.raises(UserError, match=r"tasks=clozee: no such task or file \(did you mean cloze\?\); choose one of"):
        read_tasks(["clozee"])
    with pytest.raises(UserError, match=r"tasks=own: is named twice"):
        read_tasks([write(ITEM), "./own.jsonl"])
