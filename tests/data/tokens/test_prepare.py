import os
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.text import splits
from gptlab.data.text.sources import Bundled, Files, Mixture, TokenFiles
from gptlab.data.text.splits import divide, survey
from gptlab.data.tokens import encode
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.shards import TokenStream
from gptlab.errors import UserError
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char
from gptlab.tokenizers.saved import Saved


@pytest.fixture
def files(texts: str) -> Files:
    return Files(files=[texts.strip("[]")])


def documents(tokens: TokenStream, tokenizer: Tokenizer) -> list[str]:
    """Return the documents that a stream spells, each behind a separator."""
    starts = np.flatnonzero(tokens[:] == tokenizer.eot).tolist()
    assert starts[:1] in ([0], [])
    return [
        tokenizer.decode(tokens[start + 1 : stop].tolist())
        for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True)
    ]


def folders(tmp_path: Path) -> list[Path]:
    """Return all folders that count as complete."""
    return [p for p in (tmp_path / "cache/shards").iterdir() if p.is_dir() and p.suffix != ".partial"]


def test_the_stream_spells_the_documents_each_behind_a_separator(files: Files) -> None:
    corpus = prepare(files, BPE(vocab_size=300))
    sides = list(divide(files.chunks(), survey(files.chunks(), 0.1)))
    for part, tokens in {"train": corpus.train[0], "val": corpus.val}.items():
        expected = [chunk.text for side, chunk in sides if side == part]
        assert expected
        assert documents(tokens, corpus.tokenizer) == expected
        counts = corpus.manifest[part]
        assert counts["documents"] == len(expected)
        assert counts["bytes"] == sum(len(text.encode()) for text in expected)
        assert counts["tokens"] == len(tokens)


def test_the_tokenizer_never_saw_the_held_out_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("ab" * 100 + "z" * 20)
    corpus = prepare(Files(files=["book.txt"]), Char())
    assert corpus.tokenizer.n_vocab == 2 + 2  # a, b and the two special ones: z is only held out
    assert documents(corpus.val, corpus.tokenizer) == ["ab" + "\ufffd" * 20]


def test_prepared_once_and_found_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(files, Byte())
    assert prepare(files, BPE(vocab_size=300)).folders != first.folders
    monkeypatch.delattr("gptlab.data.tokens.surveys.survey")
    monkeypatch.delattr("gptlab.data.tokens.prepare.write_sections")
    again = prepare(files, Byte())
    assert (again.folders, again.manifest) == (first.folders, first.manifest)


def test_a_file_that_was_only_touched_is_read_but_not_encoded_again(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(files, Byte())
    os.utime(Path(files.files[0]).parent / "00.txt", ns=(1, 1))
    scans = []
    monkeypatch.setattr("gptlab.data.tokens.surveys.survey", lambda *args: scans.append(1) or survey(*args))
    monkeypatch.delattr("gptlab.data.tokens.prepare.write_sections")
    assert prepare(files, Byte()).folders == first.folders
    assert scans == [1]


def test_the_hash_is_of_the_text(files: Files) -> None:
    before = prepare(files, Byte()).manifest["sha256"]
    assert prepare(files, BPE(vocab_size=300)).manifest["sha256"] == before
    path = Path(files.files[0]).parent / "00.txt"
    path.write_text(path.read_text() + "!")
    assert prepare(files, Byte()).manifest["sha256"] != before


@pytest.mark.parametrize("moment", ["gptlab.data.tokens.encode.np.save", "gptlab.data.tokens.prepare.shutil.copytree"])
def test_a_run_killed_while_writing_leaves_nothing_that_is_taken_for_whole(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(moment, killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(files, Byte())
    assert folders(tmp_path) == []
    corpus = prepare(files, Byte())
    assert folders(tmp_path) == corpus.folders
    content = {path.name for path in corpus.folders[0].iterdir()}
    shards = {f"{part}-00000.{end}" for part in ("train", "val") for end in ("bin", "starts.npy")}
    assert content == {"manifest.json", "tokenizer", *shards}


def test_the_size_of_shards_does_not_change_the_tokens(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepare(files, Byte())
    monkeypatch.setattr(encode, "JOB", 500)
    monkeypatch.setenv("GPTLAB_CACHE", "elsewhere")
    many = prepare(files, Byte(), section=2000)
    assert len(many.train[0].shards) > 3
    assert np.array_equal(many.train[0][:], one.train[0][:])
    assert np.array_equal(many.val[:], one.val[:])


def test_other_data_under_the_same_tokenizer(files: Files, tmp_path: Path) -> None:
    corpus = prepare(files, BPE(vocab_size=300))
    (tmp_path / "other.txt").write_text("the héllo")
    other = Files(files=["other.txt"], val_fraction=1.0)
    found = prepare(other, Saved(str(corpus.folders[0] / "tokenizer")), parts=["val"])
    assert documents(found.val, corpus.tokenizer) == ["the héllo"]
    assert found.val[:].tolist() == [corpus.tokenizer.eot, *corpus.tokenizer.encode("the héllo")]
    assert found.manifest["val"]["bytes"] == len("the héllo".encode())


def test_only_the_held_out_part_is_made(files: Files) -> None:
    alone, both = prepare(files, Byte(), parts=["val"]), prepare(files, Byte())
    assert np.array_equal(alone.val[:], both.val[:])
    assert (len(alone.train[0]), alone.manifest["train"]["shards"]) == (0, [])
    assert alone.manifest["sha256"] == both.manifest["sha256"]
    assert len(both.train[0]) > 0


def test_own_files_are_held_out(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "FEW", 3)  # however many there are
    (tmp_path / "val.txt").write_text("held out: ÿ")
    data = Files(files=files.files, val_files=["val.txt"])
    corpus = prepare(data, Char())
    assert documents(corpus.train[0], corpus.tokenizer) == [chunk.text for chunk in files.chunks()]
    assert documents(corpus.val, corpus.tokenizer) == ["held out: \ufffd".replace(":", "\ufffd")]
    before = corpus.manifest["sha256"]
    assert before != prepare(Files(files=files.files, val_fraction=0.5), Char()).manifest["sha256"]
    (tmp_path / "val.txt").write_text("other")
    assert prepare(data, Char()).manifest["sha256"] != before


def test_a_mixture_sums_its_parts_and_its_hash_knows_the_weights(files: Files, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("zz" * 500)
    book = Files(files=["book.txt"])
    corpus = prepare(Mixture(parts={"a": files, "b": book}, weights={"b": 3}), Char())
    assert corpus.weights == [1.0, 3.0]
    assert "z" in corpus.tokenizer.decode(range(corpus.tokenizer.n_vocab))  # the tokenizer saw all parts
    parts = corpus.manifest["sources"]
    for part in ("train", "val"):
        for count in ("documents", "bytes", "tokens"):
            assert corpus.manifest[part][count] == parts["a"][part][count] + parts["b"][part][count]
    assert documents(corpus.train[1], corpus.tokenizer) == ["z" * 900]
    assert documents(corpus.val, corpus.tokenizer)[-1] == "z" * 100
    assert len(corpus.val) == corpus.manifest["val"]["tokens"]
    assert [m["sha256"] for m in parts.values()] == [prepare(d, Byte()).manifest["sha256"] for d in (files, book)]
    hashes = {
        prepare(Mixture(parts={"a": files, "b": book}, weights=weights), Char()).manifest["sha256"]
        for weights in ({"b": 3.0}, {"b": 2.0}, {})
    }
    assert len(hashes) == 3 and corpus.manifest["sha256"] in hashes


def test_a_mixture_is_of_texts() -> None:
    with pytest.raises(UserError, match=r"^data\.parts\.t=tokenfiles: .+ is no text; .+$"):
        prepare(Mixture(parts={"b": Bundled(), "t": TokenFiles(train=["x.bin"])}), Byte())


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"^data=files: has no text; "):
        prepare(Files(files=["empty.txt"]), Byte())
