"""Pairs of answers from files of every usual form, and what is said of those that are none."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptlab.commands.main import main
from gptlab.data.text.preferences import Preferences
from gptlab.errors import UserError

ASKED = [{"role": "user", "content": "2 + 2?"}]
FOUR, FIVE = ([{"role": "assistant", "content": text}] for text in ("4", "5"))
PAIR = {"prompt": ASKED, "chosen": FOUR, "rejected": FIVE}
FORMS: dict[str, dict[str, Any]] = {
    "texts": {"id": 7, "prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    "messages": PAIR,
    "mixed": {"prompt": "2 + 2?", "chosen": FOUR, "rejected": "5"},
    "conversations": {"prompt": "not this", "chosen": [*ASKED, *FOUR], "rejected": [*ASKED, *FIVE], "score": 3.0},
}


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in records))
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_pair(form: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", FORMS[form])
    assert list(Preferences(files=[file]).examples()) == [PAIR]
    assert list(Preferences(val_files=[file]).held_out() or ()) == [PAIR] and Preferences().held_out() is None


def test_the_prompt_is_what_both_conversations_begin_with(tmp_path: Path) -> None:
    more = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    file = lines(tmp_path / "a.jsonl", {"chosen": [*ASKED, *FOUR, *more], "rejected": [*ASKED, *FOUR, more[0], *FIVE]})
    found = [{"prompt": [*ASKED, *FOUR, more[0]], "chosen": [more[1]], "rejected": FIVE}]
    assert list(Preferences(files=[file]).examples()) == found


BROKEN: list[tuple[Any, str]] = [
    ("{\n", "line 2 is not JSON"),
    ([1], "line 2 is no object; give prompt, chosen and rejected"),
    ({"prompt": "a", "chosen": "b"}, "line 2 has no rejected; give prompt, chosen and rejected"),
    ({"chosen": "b", "rejected": "c"}, "line 2 has no prompt; give prompt, chosen and rejected"),
    ({"prompt": "a", "chosen": "b", "rejected": 3}, r"line 2 has a rejected that is no text \(int\); give a text"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 2 has the same answer in chosen and rejected; give two"),
    ({"prompt": "a", "chosen": " ", "rejected": "b"}, "line 2 has no answer of the assistant in chosen: no token coun"),
    ({"prompt": "a", "chosen": "b", "rejected": ASKED}, "line 2 has no answer of the assistant in rejected"),
    ({"prompt": [*ASKED, *FOUR], "chosen": "b", "rejected": "c"}, "line 2 has no prompt that ends before the assist"),
    ({"prompt": "a", "chosen": [], "rejected": "c"}, "line 2 has chosen that are no list of some; give"),
    ({"chosen": FOUR, "rejected": FIVE}, "line 2 has no prompt; give prompt, chosen and rejected"),
    ({"chosen": ASKED, "rejected": [*ASKED, *FIVE]}, "line 2 has no answer of the assistant in chosen"),
    ({"prompt": [{"role": "tool", "content": "x"}], "chosen": "b", "rejected": "c"}, "line 2 has a message 1 of the role"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "said"), BROKEN, ids=[said[7:40] for _, said in BROKEN])
def test_what_is_no_pair_is_one_line_that_names_its_number(record: Any, said: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", PAIR, record)
    with pytest.raises(UserError, match=f"^data.files={file}: {said}"):
        list(Preferences(files=[file]).examples())


@pytest.mark.slow
def test_questions_about_python() -> None:
    found = list(Preferences().examples())
    assert len(found) > 1000 and all(each["chosen"] != each["rejected"] for each in found)
    answers = {each["prompt"][0]["content"]: each["chosen"][0]["content"] for each in found}
    assert answers["What is the module bisect for?"] == "Bisection algorithms."


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(tmp_path / "a.jsonl", PAIR, {"prompt": "a"})
    assert main(["train", "experiment=dpo", "data.files=[a.jsonl]"]) == 2
    assert capsys.readouterr().err.startswith("error: task=preference: compares with the model that a run begins with")
