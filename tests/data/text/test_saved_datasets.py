"""Folders as `datasets` itself saves them."""

import json
from pathlib import Path

import datasets
import pytest

from gptlab.data.text.sources import Files, Hub, TextData
from gptlab.errors import UserError

TEXTS = [f"Document {i}, é." for i in range(50)]


@pytest.fixture
def saved() -> Path:
    datasets.Dataset.from_dict({"id": range(50), "text": TEXTS}).save_to_disk("saved", num_shards=3)
    return Path("saved")


@pytest.fixture
def splits() -> Path:
    rows = {"train": TEXTS[:40], "validation": TEXTS[40:]}
    every = {name: datasets.Dataset.from_dict({"text": texts}, split=name) for name, texts in rows.items()}
    datasets.DatasetDict(every).save_to_disk("splits")
    return Path("splits")


def documents(data: TextData) -> list[str]:
    return [chunk.text for chunk in data.chunks()]


def refused(data: TextData, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as caught:
        documents(data)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


def test_a_saved_data_set_is_read_in_its_order(saved: Path) -> None:
    assert len(list(saved.glob("*.arrow"))) == 3
    datasets.Dataset.from_dict({"text": ["stale"]}).save_to_disk("other")
    (Path("other") / "data-00000-of-00001.arrow").rename(saved / "data-00000-of-00001.arrow")  # not in its list
    assert documents(Files(files=["saved"])) == documents(Hub(path="saved")) == TEXTS
    assert documents(Hub(path="saved", max_documents=7)) == TEXTS[:7]
    assert documents(Hub(path="saved", joined=True)) == TEXTS
    assert [chunk.begins for chunk in Hub(path="saved", joined=True).chunks()] == [True] + [False] * 49


def test_splits_are_chosen_by_name(splits: Path) -> None:
    data = Hub(path="splits", val_split="validation")
    assert (documents(data), [chunk.text for chunk in data.held_out() or []]) == (TEXTS[:40], TEXTS[40:])
    assert documents(Files(files=["splits/train"])) == TEXTS[:40]
    refused(
        Files(files=["splits"]), "data.files=splits: holds several splits; give one of splits/train, splits/validation"
    )
    refused(Hub(path="splits", split="test"), "data.path=splits: has no split 'test' but train, validation; ")
    refused(
        Hub(path="splits/validation"), "data.path=splits/validation: is the split 'validation', and 'train' is asked"
    )


def test_a_saved_data_set_that_is_not_whole(saved: Path) -> None:
    next(saved.glob("*.arrow")).unlink()
    refused(Files(files=["saved"]), "data.files=saved/data-.*arrow: is listed in state.json and is not there")
    for content in ("", "{", "[]", "{}", json.dumps({"_data_files": [{"filename": "../x.arrow"}]})):
        (saved / "state.json").write_text(content)
        refused(Files(files=["saved"]), "data.files=saved/state.json: ")


def test_a_folder_that_is_none() -> None:
    Path("folder").mkdir()
    refused(Files(files=["folder"]), r"data.files=folder: is a folder; give its files, e\.g\. folder/\*\.txt")
