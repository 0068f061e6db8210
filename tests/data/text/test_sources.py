import gzip
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gptlab.data.text import sources
from gptlab.data.text.sources import (
    Bundled,
    DataConfig,
    Download,
    Files,
    Hub,
    Mixture,
    TextData,
    TokenFiles,
    identity,
)
from gptlab.errors import UserError


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name, text in {"b.txt": "bee", "a.txt": "ay", "c.md": "sea"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def documents(data: TextData) -> list[str]:
    return [chunk.text for chunk in data.chunks() if chunk.begins]


def refused(message: str, cls: type, **fields: Any) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(message)}: [^;\n]+; [^\n]+$"):
        cls(**fields)


def test_own_files_by_path_and_glob_each_once_in_order(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(three))
    assert documents(Files(files=["*.txt"])) == ["ay", "bee"]
    assert documents(Files(files=[str(three / "c.md"), "*.txt", "a.txt", "~/a.txt", "./b.txt"])) == ["sea", "ay", "bee"]
    assert documents(Files(files=["~/c.*", "b.txt"])) == ["sea", "bee"]
    (three / "more/deep").mkdir(parents=True)
    (three / "more/deep/d[1].txt").write_text("dee")
    assert documents(Files(files=["**/*.txt"])) == ["ay", "bee", "dee"]
    assert documents(Files(files=["more/deep/d[1].txt"])) == ["dee"]


def test_held_out_files(three: Path) -> None:
    assert Files(files=["*.txt"]).held_out() is None
    chunks = Files(files=["*.txt"], val_files=["c.*"]).held_out()
    assert chunks is not None
    assert [chunk.text for chunk in chunks] == ["sea"]


def test_settings_reach_the_reader(three: Path) -> None:
    (three / "a.jsonl").write_text('{"story": "one"}\n')
    (three / "d.txt").write_bytes(b"one|t\xffwo")
    assert documents(Files(files=["a.jsonl"], column="story")) == ["one"]
    assert documents(Files(files=["d.txt"], separator="|", errors="replace")) == ["one", "t\ufffdwo"]


@pytest.mark.parametrize("files", [[], ["missing.txt"], ["*.nothing"], ["a.txt", "missing.txt"], ["."]])
def test_no_file(three: Path, files: list[str]) -> None:
    for make in (lambda: documents(Files(files=files)), Files(files=files).version):
        with pytest.raises(UserError, match=r"^data\.files="):
            make()


def test_mistakes_in_a_file_name_the_key_it_came_by(three: Path) -> None:
    (three / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"^data\.files=bad\.txt: is not UTF-8"):
        documents(Files(files=["bad.txt"]))
    for name, why in {"bad.txt": "is not UTF-8", "missing.txt": "no such file"}.items():
        with pytest.raises(UserError, match=rf"^data\.val_files={name}: {why}"):
            list(Files(files=["a.txt"], val_files=[name]).held_out() or [])


def test_the_version_of_files_tells_a_change(three: Path) -> None:
    data = Files(files=["*.txt"], val_files=["c.md"])
    versions = [data.version()]
    assert data.version() == versions[0]

    def changed() -> bool:
        versions.append(data.version())
        return versions[-1] not in versions[:-1]

    (three / "a.txt").write_text("longer")
    assert changed()
    os.utime(three / "b.txt", ns=(0, 1))
    assert changed()
    os.utime(three / "c.md", ns=(0, 1))
    assert changed()
    (three / "d.txt").write_text("dee")
    assert changed()


def test_a_download_is_read_as_its_address_says(tmp_path: Path) -> None:
    content = gzip.compress(b'{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "story.jsonl.gz").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    data = Download(url=f"file://{tmp_path}/story.jsonl.gz", sha256=sha256)
    assert documents(data) == ["one", "two"]
    assert data.version() == sha256
    data.url = "http://127.0.0.1:1/story.jsonl.gz?download=a/b.txt"  # fetched already
    assert documents(data) == ["one", "two"]


@pytest.mark.parametrize(("url", "sha256", "key"), [("", "0" * 64, "data.url="), ("file:///x", "", "data.sha256=")])
def test_a_download_needs_an_address_and_a_hash(url: str, sha256: str, key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: .+; "):
        documents(Download(url=url, sha256=sha256))


def test_bundled_english_is_one_document_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.bundled, "english", lambda: ["one", "two"])
    assert documents(Bundled()) == ["one", "two"]


def test_only_what_decides_the_text_is_its_identity() -> None:
    batching: dict[str, Any] = {
        "batch_size": 2,
        "micro_batch_size": 1,
        "packing": "documents",
        "mask_documents": True,
        "other_data_ok": True,
        "num_workers": 1,
    }
    plain = identity(Files(files=["a.txt"]))
    assert identity(Files(files=["a.txt"], **batching)) == plain == identity(Files(files=["a.txt"], stride=3))
    for change in ({"val_fraction": 0.2}, {"column": "story"}, {"separator": "|"}, {"errors": "replace"}):
        assert identity(Files(files=["a.txt"], **change)) != plain
    assert identity(Files(files=["b.txt"])) != plain != identity(Files(files=["a.txt"], val_files=["b.txt"]))
    assert identity(Hub(path="a/b")) != identity(Hub(path="a/b", revision="main"))
    assert identity(Download()) != identity(Bundled())


def test_the_weights_of_a_mixture() -> None:
    mixture = Mixture(parts={"a": Bundled(), "b": Bundled()}, weights={"b": 0.25})
    assert [mixture.weight("a"), mixture.weight("b")] == [1.0, 0.25]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("micro_batch_size", 0),
        ("val_fraction", 0.0),
        ("val_fraction", 1.5),
        ("val_fraction", float("nan")),
        ("packing", "tight"),
        ("stride", 0),
        ("num_workers", -1),
    ],
)
@pytest.mark.parametrize("cls", [DataConfig, Bundled, Files])
def test_impossible_settings_of_batches_say_so(cls: type, field: str, value: Any) -> None:
    refused(f"{field}={value}", cls, **{field: value})


def test_impossible_settings_of_sources_say_so() -> None:
    refused("stride=8", Files, stride=8, packing="documents")
    for cls in (Files, Download):
        refused("errors=ignore", cls, errors="ignore")
        refused("separator=", cls, separator="")
    refused("max_documents=0", Hub, max_documents=0)
    refused("parts={}", Mixture)
    refused("weights.b=2", Mixture, parts={"a": Bundled()}, weights={"b": 2})
    refused("weights.a=0", Mixture, parts={"a": Bundled()}, weights={"a": 0})
    refused("train=[]", TokenFiles)
    refused("train=[]", TokenFiles, val=["val.bin"])
    for files in ({"train": ["train.bin"]}, {"val": ["val.bin"]}):
        refused("folder=tokens", TokenFiles, folder="tokens", **files)
    TokenFiles(folder="tokens")
    TokenFiles(train=["train.bin"], val=["val.bin"])
