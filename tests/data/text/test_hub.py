import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from gptlab.data.text import hub
from gptlab.data.text.readers import Chunk
from gptlab.data.text.sources import Hub
from gptlab.errors import UserError

TEXTS = [f"Document {i}.\r\nIt has an accent: é 🙂\n" * (1 + i % 3) for i in range(20)]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid the network and everything outside of the test's folder."""
    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    for name in ("HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setattr(datasets.config, name, str(tmp_path / name))


def write(path: str, texts: list[Any], column: str = "text") -> str:
    """Write a file of records, in the format of its ending; return its folder."""
    file = Path(path)
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(texts)), column: texts}), file)
    else:
        file.write_text("".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts)))
    return str(file.parent)


def documents(data: Hub) -> list[str]:
    chunks = list(data.chunks())
    assert all(chunk.begins for chunk in chunks)
    return [chunk.text for chunk in chunks]


def refused(data: Hub, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as caught:
        documents(data)
    assert "\n" not in str(caught.value)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nat all")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_data_set_is_streamed_once(kind: str, request: pytest.FixtureRequest) -> None:
    data = Hub(path=write(f"set/train.{kind}", TEXTS))
    assert documents(data) == TEXTS
    request.getfixturevalue("no_network")
    assert documents(data) == TEXTS


def test_a_folder_that_changed_is_streamed_again() -> None:
    data = Hub(path=write("set/train.jsonl", TEXTS))
    before = data.version()
    assert documents(data) == TEXTS
    write("set/train.jsonl", TEXTS[::-1] + ["more"])
    assert data.version() != before
    assert documents(data) == TEXTS[::-1] + ["more"]


@pytest.mark.parametrize("most", [None, 15])
def test_a_stream_that_broke_off_goes_on_where_it_stopped(most: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    records, skipped = hub._records, []

    def broken(*args: Any) -> Iterator[Any]:
        skipped.append(args[-2])
        for i, record in enumerate(records(*args)):
            if i == 7:
                raise UserError("data.path", "set", "cannot be read", "connect")
            yield record

    monkeypatch.setattr(hub, "PIECE", 250)
    monkeypatch.setattr(hub, "_records", broken)
    data = Hub(path=write("set/train.jsonl", TEXTS), max_documents=most)
    for _ in range(2):
        refused(data, "data.path=set: cannot be read")
    monkeypatch.setattr(hub, "_records", records)
    assert documents(data) == TEXTS[:most]
    assert 0 == skipped[0] < skipped[1]


@pytest.mark.parametrize("most", [1, 7, 100])
def test_the_first_documents_are_enough(most: int) -> None:
    assert documents(Hub(path=write("set/train.parquet", TEXTS), max_documents=most)) == TEXTS[:most]


def test_a_held_out_split() -> None:
    write("set/train.jsonl", TEXTS)
    data = Hub(path=write("set/validation.jsonl", ["held", "out"]), val_split="validation", max_documents=1)
    assert documents(data) == TEXTS[:1]
    assert list(data.held_out() or []) == [Chunk("held", True), Chunk("out", True)]
    assert Hub(path="set").held_out() is None


def test_records_may_be_lines_of_one_text() -> None:
    data = Hub(path=write("set/train.jsonl", ["= Title =\n", "", "A line.\n"]), joined=True)
    assert list(data.chunks()) == [Chunk("= Title =\n", True), Chunk("A line.\n", False)]


def test_another_column_and_records_without_text() -> None:
    data = Hub(path=write("set/train.parquet", ["one", None, "", "two"], "story"), column="story")
    assert documents(data) == ["one", "two"]


def test_what_is_not_there_says_so() -> None:
    path = write("set/train.jsonl", TEXTS)
    refused(Hub(path=path, column="story"), "data.column=story: set has no such column but id, text; choose one")
    refused(Hub(path=path, column="id"), "data.column=id: set has a int there, not text; choose another")
    refused(Hub(path=path, split="test"), r"data\.path=set: cannot be read \(.*test.*\); ")
    refused(Hub(path="no_such_folder"), r"data\.path=no_such_folder: cannot be read \(.+\); ")
    refused(Hub(), r"data\.path=: is empty; give OWNER/NAME")


def test_without_a_network(no_network: None) -> None:
    refused(Hub(path="a/b"), r"data\.path=a/b: cannot be read \(ConnectionError: Couldn't reach the Hub\); connect")


def test_what_needs_an_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(Hub(path="a/b"), r"data\.path=a/b: needs datasets; pip install 'gptlab\[hub\]'$")
