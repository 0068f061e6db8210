"""Conversations from files of every usual form, and what is said of those that are none."""

import bisect
import gzip
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gptlab.data.text.instructions import Instructions
from gptlab.errors import UserError

ASKED = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
FORMS: dict[str, dict[str, Any]] = {
    "messages": {"id": 7, "messages": ASKED},
    "prompt": {"prompt": "2 + 2?", "completion": "4"},
    "alpaca": {"instruction": "2 + 2?", "input": "", "output": "4", "text": "all of it"},
    "sharegpt": {"id": 7, "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    "conversations": {"conversations": ASKED, "system": ""},
}


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_conversation(form: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "a.jsonl", FORMS[form])
    assert list(Instructions(files=[file]).examples()) == [{"messages": ASKED}]


def test_files_of_several_kinds(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps([FORMS["prompt"]] * 2, indent=1))
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write("\n" + json.dumps({"instruction": "Add.", "input": "1, 2", "output": "3"}) + "\n\n")
    data = Instructions(files=[str(tmp_path / "b.json")], val_files=[str(tmp_path / "*.gz")])
    assert list(data.examples()) == [{"messages": ASKED}] * 2
    user = {"role": "user", "content": "Add.", "input": "1, 2"}
    assert list(data.held_out() or ()) == [{"messages": [user, {"role": "assistant", "content": "3"}]}]
    assert Instructions(files=["x"]).held_out() is None


def test_the_system_of_sharegpt_is_the_first_message(tmp_path: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    within = {"conversations": [system, *FORMS["sharegpt"]["conversations"]], "system": "not this"}
    file = lines(tmp_path / "a.jsonl", FORMS["sharegpt"] | {"system": "Be brief."}, within)
    assert (
        list(Instructions(files=[file]).examples())
        == [{"messages": [{"role": "system", "content": "Be brief."}, *ASKED]}] * 2
    )


def parquet(path: Path, *records: Any, **how: Any) -> str:
    pq.write_table(pa.Table.from_pylist(list(records)), path, **how)
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_parquet_and_saved_datasets_hold_the_same_records(form: str, tmp_path: Path) -> None:
    """A column that only other rows have, which is empty in this one, says nothing."""
    found = [FORMS[form]] * 9 + [{"id": 3, "instruction": "Add.", "input": "1, 2", "output": "3"}]
    expected = list(Instructions(files=[lines(tmp_path / "a.jsonl", *found)]).examples())
    fields = {name for each in found for name in each}
    full = [{name: each.get(name) for name in fields} for each in found]
    assert list(Instructions(files=[parquet(tmp_path / "a.parquet", *full)]).examples()) == expected
    datasets.Dataset.from_list(full).save_to_disk(str(tmp_path / "saved"))
    assert list(Instructions(files=[str(tmp_path / "saved")]).examples()) == expected
    assert len(expected) == 10


def test_a_mistake_names_the_row_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(path: str) -> str:
        with pytest.raises(UserError) as found:
            list(Instructions(files=[path]).examples())
        return str(found.value).removeprefix(f"data.files={path}: ")

    bot = {"conversations": [{"from": "human", "value": "a"}, {"from": "bot", "value": "b"}]}
    path = parquet(tmp_path / "a.parquet", *[FORMS["sharegpt"]] * 11, bot)
    assert said(path).startswith("row 12 has a message 2 from 'bot'; choose one of human, gpt, system")
    Path(path).write_bytes(Path(path).read_bytes()[:-7])
    assert said(path).startswith("cannot be read (")
    (tmp_path / "b.arrow").write_bytes(b"no table")
    assert said(str(tmp_path / "b.arrow")).startswith("is no Arrow file, or one that is cut short")
    raw = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": raw, "completion": ["a", "b"]}), tmp_path / "c.parquet")
    assert said(str(tmp_path / "c.parquet")).startswith("is not UTF-8 (row 2); write it again")
    pq.write_table(pa.table([["a"], ["b"]], ["prompt", "prompt"]), tmp_path / "d.parquet")
    assert said(str(tmp_path / "d.parquet")).startswith("has more than one column 'prompt'; rename one")
    monkeypatch.setattr("gptlab.data.text.parquet.LARGEST", 10)
    path = parquet(tmp_path / "e.parquet", {"prompt": "a" * 50, "completion": "b"}, compression="none")
    assert "has a page of" in said(path)


@pytest.mark.slow
def test_questions_about_python() -> None:
    found = list(Instructions().examples())
    assert len(found) > 1000
    answers = {each["messages"][0]["content"]: each["messages"][1]["content"] for each in found}
    assert answers["What is the module bisect for?"] == inspect.getdoc(bisect)
    first = (inspect.getdoc(textwrap.indent) or "").split("\n\n")[0]
    assert answers["What does textwrap.indent() do?"] == " ".join(first.split())
    assert found == list(Instructions().examples())


def with_role(role: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "x"}, ASKED[1]]}


MISTAKES: dict[str, tuple[str, str]] = {
    "broken": ('{"prompt": ', "line 2 is not JSON"),
    "no object": ("[1]", "line 2 is no object; give messages"),
    "nothing": ("{}", "line 2 has the fields of nothing; give messages"),
    "other fields": ('{"question": "a", "answer": "b"}', "line 2 has the fields question, answer; give messages"),
    "no completion": ('{"prompt": "a"}', "line 2 has no completion; give prompt and completion"),
    "no output": ('{"instruction": "a", "input": "b"}', "line 2 has no output; give instruction and output"),
    "a number": ('{"prompt": 3, "completion": "b"}', "line 2 has a prompt that is no text (int); give a text"),
    "empty": ('{"messages": []}', "line 2 has messages that are no list of some; give"),
    "no content": ('{"messages": [{"role": "user"}]}', "line 2 has a message 1 without role and content"),
    "role": (
        json.dumps(with_role("bot")),
        "line 2 has a message 1 of the role 'bot'; choose one of system, user, assistant",
    ),
    "from": (
        json.dumps({"conversations": [{"from": "tool", "value": "x"}]}),
        "line 2 has a message 1 from 'tool'; choose one of human, gpt, system",
    ),
    "no value": (
        json.dumps({"conversations": [{"from": "gpt"}]}),
        "line 2 has a message 1 without role and content, or from and value; give it both",
    ),
    "no conversations": ('{"conversations": "a"}', "line 2 has conversations that are no list of some; give"),
    "no answer": (
        json.dumps({"messages": ASKED[:1]}),
        "line 2 has no answer of the assistant: all of its tokens are masked",
    ),
    "empty answer": ('{"prompt": "a", "completion": " "}', "line 2 has no answer of the assistant"),
    "half a character": (
        '{"prompt": "\\ud83d", "completion": "b"}',
        "line 2 has half a character in its prompt (at 0)",
    ),
    "tools": (json.dumps({"messages": ASKED, "tools": [{}]}), "line 2 has tools"),
    "calls": (
        json.dumps({"messages": [*ASKED, {"role": "assistant", "content": "", "tool_calls": [{}]}]}),
        "line 2 has a message 3 that calls tools",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_its_line(name: str, tmp_path: Path) -> None:
    line, why = MISTAKES[name]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(FORMS["prompt"]) + "\n" + line + "\n")
    with pytest.raises(UserError) as found:
        list(Instructions(files=[str(path)]).examples())
    assert str(found.value).startswith(f"data.files={path}: {why}")


def test_files_that_hold_no_records(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\n1,2\n")
    with pytest.raises(
        UserError, match=r"^data.files=\S+a.csv: holds csv, which is not read as records; give JSON lines, one"
    ):
        list(Instructions(files=[str(tmp_path / "a.csv")]).examples())
    with pytest.raises(UserError, match=r"^data.files=none.jsonl: no such file"):
        list(Instructions(files=["none.jsonl"]).examples())
