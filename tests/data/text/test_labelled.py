"""Texts with labels from files of every usual form, and what is said of lines that are none."""

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gptlab.data.text.labelled import Labelled
from gptlab.data.text.messages import about_anything
from gptlab.errors import UserError

FOUND = [{"text": 'Call "me"\nnow, ok', "label": "spam"}, {"text": "See you", "label": "ham"}]


def write(path: Path, records: list[dict[str, Any]], form: str) -> str:
    if form == "json":
        path.write_text(json.dumps(records))
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"id": 1, **each}) + "\n\n" for each in records))
    else:
        out = io.StringIO(newline="")
        rows = csv.writer(out, delimiter="\t" if form.startswith("tsv") else ",")
        rows.writerows([["label", "id", "text"], *([each["label"], 1, each["text"]] for each in records)])
        content = out.getvalue().encode()
        path.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "tsv", "csv.gz"])
def test_every_form_is_the_same_texts(form: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"a.{form}", FOUND, form)
    assert list(Labelled(files=[file]).examples()) == FOUND
    assert list(Labelled(files=["none"], val_files=[file]).held_out() or ()) == FOUND
    assert Labelled(files=[file]).held_out() is None


def test_fields_of_other_names_and_kinds(tmp_path: Path) -> None:
    rows = [{"body": "a", "class": label} for label in ("x", 3, True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Labelled(files=[str(tmp_path / "a.jsonl")], text="body", label="class").examples()
    assert [each["label"] for each in found] == ["x", "3", "true"]


def test_a_table_without_names_and_without_quotes(tmp_path: Path) -> None:
    """The SMS Spam Collection is like this: a quote may begin a message, and need not end."""
    (tmp_path / "sms.tsv").write_text('ham\t"Yes, he said\nspam\tWin a "prize" now\n')
    data = Labelled(files=[str(tmp_path / "sms.tsv")], columns=["label", "text"], quoted=False)
    assert [each["text"] for each in data.examples()] == ['"Yes, he said', 'Win a "prize" now']
    with pytest.raises(UserError, match=r"row \d cannot be read .*; double the quotes"):
        list(Labelled(files=data.files, columns=data.columns).examples())


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"', "line 2 is not JSON .*; mend or drop it"),
        (
            "a.jsonl",
            '\n{"text": "a", "lable": "b"}',
            "line 2 has no field 'label'; it has text, lable; .*data.label=NAME",
        ),
        ("a.jsonl", '{"body": "a", "label": "b"}', "line 1 has no field 'text'; .*data.text=NAME"),
        ("a.jsonl", '{"text": 5, "label": "b"}', r"line 1 has a text that is no text \(int\)"),
        ("a.jsonl", '{"text": " ", "label": "b"}', "line 1 has an empty text; drop it"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', r"line 1 has a label that is no text \(float\)"),
        ("a.jsonl", '{"text": "a\\ud800", "label": "b"}', "line 1 has half a character in its text"),
        ("a.jsonl", "[1]", "line 1 is no object"),
        ("a.csv", "text,label\na,b\na,b,c\n", "row 2 has 3 fields, and there are 2 columns; quote"),
        ("a.csv", 'text,label\n"a,b\n', "row 1 cannot be read"),
        ("a.csv", "text,class\na,b\n", "row 1 has no field 'label'; it has text, class"),
        ("a.csv", "text,label,text\na,b,c\n", "has more than one column 'text'; rename one"),
        ("a.csv", "text,label\na,\n", "row 1 has an empty label"),
        ("a.csv.gz", "text,label\n", "cannot be read .*; give a whole file"),
        ("a.parquet", "PAR1", "cannot be read .*; give a whole file"),
        ("a.tar", "", ".tar is not read; unpack it"),
    ],
)
def test_lines_that_are_none(name: str, content: str, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"^data.files=\S+{name}: ({line})"):
        list(Labelled(files=[str(tmp_path / name)]).examples())


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 0], "more": [None, [1]]}), path)
    expected = [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]
    assert list(Labelled(files=[str(path)]).examples()) == expected
    pq.write_table(pa.table({"text": ["a", "b"], "label": [True, None]}), path)
    with pytest.raises(UserError, match=r"^data.files=\S+a.parquet: row 2 has no field 'label'; it has text; give it"):
        list(Labelled(files=[str(path)]).examples())


def test_fields_that_make_no_sense() -> None:
    with pytest.raises(UserError, match=r"^label=label: is not one of columns=\['text', 'class'\]; name it there"):
        Labelled(columns=["text", "class"])
    with pytest.raises(UserError, match=r"^label=text: is the text, too"):
        Labelled(label="text")


def test_generated_messages_are_many_and_the_same() -> None:
    found = about_anything()
    assert found == list(Labelled().examples())
    assert Counter(each["label"] for each in found) == {"ham": 1200, "spam": 1200}
    assert len({each["text"] for each in found}) > 0.98 * len(found)
    assert all("{" not in each["text"] and 15 < len(each["text"]) < 160 for each in found)
