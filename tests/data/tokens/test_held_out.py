"""Held-out text is never trained on, whatever is named."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest

from gptlab.data.text.sources import Files, Hub, Mixture, TextData, TokenFiles
from gptlab.data.tokens import token_copies
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.shards import TokenStream
from gptlab.errors import UserError
from gptlab.tokenizers.byte import Byte


def spelled(stream: TokenStream) -> list[str]:
    """The documents of a stream of bytes."""
    ids = stream[:].tolist()
    return [bytes(piece).decode() for piece in _split(ids)] if ids else []


def _split(ids: list[int]) -> list[list[int]]:
    documents: list[list[int]] = []
    for i in ids:
        documents.append([]) if i == 256 else documents[-1].append(i)
    return documents


def trained(corpus: Corpus) -> list[str]:
    return [text for stream in corpus.train for text in spelled(stream)]


def json_lines(name: str, *texts: str) -> str:
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return name


def test_files_in_both_lists_are_not_trained_on(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name * 20)
    os.symlink("c.txt", "link.txt")
    os.link("c.txt", "hard.txt")
    corpus = prepare(Files(files=["*.txt"], val_files=[str(tmp_path / "c.txt")]), Byte())
    assert (trained(corpus), spelled(corpus.val)) == (["a" * 20, "b" * 20], ["c" * 20])
    expected = "3 of data.files are in data.val_files too and not trained on: c.txt, hard.txt, link.txt"
    assert corpus.notes == [expected]
    with pytest.raises(UserError, match=r"^data\.files=\['c.txt'\]: all of them are in data\.val_files too; "):
        prepare(Files(files=["c.txt"], val_files=["?.txt"]), Byte())


def test_documents_that_are_held_out_too_are_not_trained_on() -> None:
    json_lines("train.jsonl", "one", "two", "three", "two", "four")
    json_lines("val.jsonl", "two", "five", "four")
    data = Files(files=["train.jsonl"], val_files=["val.jsonl"])
    corpus = prepare(data, Byte())
    assert (trained(corpus), spelled(corpus.val)) == (["one", "three"], ["two", "five", "four"])
    assert corpus.notes == ["3 documents are also held out: they are not trained on"]
    assert corpus.manifest["train"]["documents"] == 2
    assert prepare(data, Byte()).manifest == corpus.manifest
    json_lines("other.jsonl", "one", "three")
    other = prepare(Files(files=["other.jsonl"], val_files=["val.jsonl"]), Byte())
    assert other.notes == [] and other.manifest["sha256"] != corpus.manifest["sha256"]


def test_a_copy_of_all_of_the_training_text() -> None:
    json_lines("train.jsonl", "one", "two")
    json_lines("val.jsonl", "two", "one", "three")
    with pytest.raises(UserError, match=r"^data=files: all of its documents are held out too; "):
        prepare(Files(files=["train.jsonl"], val_files=["val.jsonl"]), Byte())


def test_splits_of_a_data_set() -> None:
    rows = {"train": ["one", "two", "three"], "validation": ["three", "four"]}
    datasets.DatasetDict({n: datasets.Dataset.from_dict({"text": t}, split=n) for n, t in rows.items()}).save_to_disk(
        "set"
    )
    corpus = prepare(Hub(path="set", val_split="validation"), Byte())
    assert (trained(corpus), spelled(corpus.val)) == (["one", "two"], ["three", "four"])


@pytest.mark.parametrize("fractions", [(0.1, 0.3), (0.3, 0.1), (0.2, 0.2)])
def test_parts_of_a_mixture_do_not_train_on_what_others_hold_out(fractions: tuple[float, float]) -> None:
    texts = [f"document {i} " * (i + 1) for i in range(60)]
    json_lines("a.jsonl", *texts)
    json_lines("b.jsonl", *texts[20:], *(text + "!" for text in texts))
    parts: dict[str, TextData] = {
        name: Files(files=[f"{name}.jsonl"], val_fraction=fraction)
        for name, fraction in zip("ab", fractions, strict=True)
    }
    corpus = prepare(Mixture(parts=parts), Byte())
    held = set(spelled(corpus.val))
    assert held and not held & set(trained(corpus))
    alone = [prepare(part, Byte()) for part in parts.values()]
    expected = [text for each in alone for text in trained(each) if text not in held]
    assert trained(corpus) == expected
    dropped = sum(len(trained(each)) for each in alone) - len(expected)
    assert sum(int(note.split()[1]) for note in corpus.notes if "also held out" in note) == dropped
    assert dropped or fractions[0] == fractions[1]


def test_one_book_in_two_parts_of_a_mixture_that_hold_out_different_ends() -> None:
    book = "".join(chr(97 + i % 26) for i in range(1000))
    Path("a.txt").write_text(book)
    Path("b.txt").write_text(book)
    Path("d.txt").write_text("another " * 100)
    json_lines("c.jsonl", book, "a third " * 100)
    parts: dict[str, TextData] = {
        "a": Files(files=["a.txt", "d.txt"], val_fraction=0.1),
        "b": Files(files=["b.txt"], val_fraction=0.2),
        "c": Files(files=["c.jsonl"], val_fraction=0.1),
    }
    corpus = prepare(Mixture(parts=parts), Byte())
    assert trained(corpus) == [("another " * 100)[:720], book[:800], ("a third " * 100)[:720]]
    with pytest.raises(UserError, match=r"^data\.parts\.a=files: all of its documents are held out too; "):
        prepare(Mixture(parts={"a": Files(files=["a.txt"]), "b": parts["b"]}), Byte())


def test_which_text_is_held_out_is_said(texts: str) -> None:
    Path("a.txt").write_text("a" * 5000)
    Path("b.txt").write_text("b" * 4990)
    Path("c.txt").write_text("c" * 10)
    corpus = prepare(Files(files=["?.txt"]), Byte())
    assert corpus.notes == ["held out: the ends of all 3 documents, 10.0% of the text (whole ones would make 0.10%)"]
    corpus = prepare(Files(files=[texts.strip("[]")]), Byte())
    val, train = corpus.manifest["val"], corpus.manifest["train"]
    share = val["bytes"] / (val["bytes"] + train["bytes"])
    assert corpus.notes == [f"held out: {val['documents']} whole documents, {share:.1%} of the text"]
    assert 0.05 <= share <= 0.1


def test_separators_in_plain_text_are_said() -> None:
    Path("a.txt").write_text("one<|endoftext|>two<|endoftext|>three " * 9)
    (note,) = prepare(Files(files=["a.txt"]), Byte()).notes[1:]
    assert note.startswith("<|endoftext|> stands 18 times in the text and is read as ordinary text: ")
    assert note.endswith("give 'data.separator=\"<|endoftext|>\"'")
    assert len(prepare(Files(files=["a.txt"], separator="<|endoftext|>"), Byte()).notes) == 1


def ids(name: str, *documents: str, begin: bool = True) -> str:
    every = [i for text in documents for i in (256, *text.encode())]
    np.array(every if begin else every[1:], np.uint16).tofile(name)
    np.array([i % 2 for i in (every if begin else every[1:])], np.uint8).tofile(Path(name).with_suffix(".mask.bin"))
    return name


@pytest.mark.parametrize("begin", [True, False])
def test_tokens_of_documents_that_are_held_out_too_are_not_trained_on(begin: bool) -> None:
    ids("train.bin", "two", "one", "one!", "four", "two", "same size", begin=begin)
    ids("more.bin", "five", "two")
    ids("val.bin", "two", "four", "some size", begin=begin)
    corpus = prepare(TokenFiles(train=["train.bin", "more.bin"], val=["val.bin"]), Byte())
    assert trained(corpus) == ["one", "one!", "same size", "five"]
    assert corpus.notes == ["4 documents are also held out: they are not trained on"]
    (stream,) = corpus.train
    mask = stream.mask(slice(None))
    assert mask is not None and mask.tolist() == [i % 2 for i in stream[:].tolist()]
    assert corpus.manifest["train"] == {"documents": 4, "bytes": None, "tokens": 24, "targets": sum(mask.tolist())}


def test_a_file_of_tokens_in_both_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    ids("a.bin", "one", "two")
    ids("b.bin", "three")
    assert trained(prepare(TokenFiles(train=["?.bin"], val=["a.bin"]), Byte())) == ["three"]
    with pytest.raises(UserError, match=r"^data\.train=a\.bin: all of it is in data\.val too; "):
        prepare(TokenFiles(train=["a.bin"], val=["a.bin"]), Byte())
    monkeypatch.setattr(token_copies, "MOST", 1)
    with pytest.raises(UserError, match=r"^data\.train=a\.bin: more than 1 of its documents are in data\.val too; "):
        prepare(TokenFiles(train=["?.bin"], val=["a.bin"]), Byte())


def test_tokens_without_copies_are_as_they_were() -> None:
    ids("a.bin", *(f"document {i}" for i in range(40)))
    corpus = prepare(TokenFiles(train=["a.bin"]), Byte())
    whole = np.fromfile("a.bin", np.uint16).tolist()
    assert [*corpus.train[0][:].tolist(), *corpus.val[:].tolist()] == whole
    assert len(corpus.train[0].shards) == 1 and corpus.notes == []
