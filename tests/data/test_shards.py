import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.shards import prepare, tokenize_held_out
from gptlab.data.sources import Files
from gptlab.data.splits import split
from gptlab.errors import UserError
from gptlab.tokenizers import BPE, Byte, Char


@pytest.fixture
def files(texts: str) -> Files:
    return Files(files=[texts.strip("[]")])


def test_the_stream_spells_the_documents_each_behind_a_separator(files: Files) -> None:
    corpus = prepare(files, BPE(vocab_size=300))
    for part, documents in zip(("train", "val"), split(files.documents(), 0.1), strict=True):
        tokens = corpus.tokens(part).tolist()
        eot = corpus.tokenizer.eot
        assert tokens[0] == eot
        pieces: list[list[int]] = []
        for token in tokens:
            if token == eot:
                pieces.append([])
            else:
                pieces[-1].append(token)
        assert [corpus.tokenizer.decode(p) for p in pieces] == documents
        counts = corpus.manifest[part]
        assert counts["documents"] == len(documents)
        assert counts["bytes"] == sum(len(d.encode()) for d in documents)
        assert counts["tokens"] == len(tokens)


def test_a_shard_is_a_line_of_numpy(files: Files) -> None:
    corpus = prepare(files, Byte())
    path = corpus.folder / "train.bin"
    tokens = np.memmap(path, dtype=corpus.manifest["dtype"])
    assert tokens.dtype == np.uint16
    assert np.array_equal(tokens, corpus.tokens("train"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == corpus.manifest["train"]["sha256"]


def test_the_tokenizer_never_saw_the_held_out_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("ab" * 100 + "z" * 20)
    corpus = prepare(Files(files=["book.txt"]), Char())
    assert corpus.tokenizer.n_vocab == 2 + 2  # a, b and the two special ones: z is only held out
    assert corpus.tokenizer.decode(corpus.tokens("val")[1:].tolist())[-1] == "\ufffd"


def test_prepared_once_and_found_again(files: Files) -> None:
    first = prepare(files, Byte())
    written = (first.folder / "train.bin").stat().st_mtime_ns
    again = prepare(files, Byte())
    assert again.folder == first.folder
    assert (again.folder / "train.bin").stat().st_mtime_ns == written
    assert prepare(files, BPE(vocab_size=300)).folder != first.folder


def test_the_hash_is_of_the_text(files: Files, tmp_path: Path) -> None:
    before = prepare(files, Byte()).manifest["sha256"]
    assert prepare(files, BPE(vocab_size=300)).manifest["sha256"] == before
    path = Path(files.files[0]).parent / "00.txt"
    path.write_text(path.read_text() + "!")
    assert prepare(files, Byte()).manifest["sha256"] != before


def test_a_run_killed_while_writing_leaves_nothing(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(files, Byte())
    monkeypatch.undo()
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in (tmp_path / "cache/shards").iterdir() if p.is_dir()] == []
    assert prepare(files, Byte()).manifest["train"]["documents"] > 0


def test_other_data_under_the_same_tokenizer(files: Files, tmp_path: Path) -> None:
    corpus = prepare(files, Byte())
    (tmp_path / "other.txt").write_text("héllo")
    tokens, size = tokenize_held_out(Files(files=["other.txt"], val_fraction=1.0), corpus.tokenizer)
    assert corpus.tokenizer.decode(tokens[1:].tolist()) == "héllo"
    assert size == 6


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"^data=files: has no text; "):
        prepare(Files(files=["empty.txt"]), Byte())
