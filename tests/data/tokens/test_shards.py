import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.text.sources import Files, TokenFiles
from gptlab.data.tokens import shards
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.shards import Shard, TokenStream, own_shards
from gptlab.errors import UserError
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.openai import OpenAI

EOT = 0
PIECES = st.lists(st.lists(st.integers(EOT, 3), max_size=9), min_size=1, max_size=5)
FEW = settings(deadline=None, max_examples=60)


def stream(folder: str, pieces: list[list[int]], dtype: str = "uint16") -> TokenStream:
    found = []
    for i, ids in enumerate(pieces):
        path = Path(folder) / f"{i}.bin"
        np.array(ids, dtype).tofile(path)
        found.append(Shard(path, dtype, len(ids)))
    return TokenStream(found)


@FEW
@given(PIECES, st.integers(-50, 50), st.integers(-50, 50), st.sampled_from([0, 128]))
def test_shards_are_one_array(pieces: list[list[int]], start: int, stop: int, most_open: int) -> None:
    expected = np.concatenate([np.array(ids, np.uint16) for ids in pieces])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(shards, "MOST_OPEN", most_open):
        tokens = stream(folder, pieces)
        assert len(tokens) == len(expected)
        assert tokens[start:stop].tolist() == expected[start:stop].tolist()
        assert tokens[start:].dtype == tokens[:].dtype == np.uint16
        assert [i for block in tokens.blocks() for i in block.tolist()] == expected.tolist()


@FEW
@given(PIECES)
def test_documents_begin_at_separators(pieces: list[list[int]]) -> None:
    every = np.concatenate(pieces)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(shards, "BLOCK", 4):
        starts = stream(folder, pieces).document_starts(EOT).tolist()
    assert starts == sorted({0, *np.flatnonzero(every == EOT).tolist()})


def test_documents_begin_where_it_is_written_down(tmp_path: Path) -> None:
    tokens = stream(str(tmp_path), [[EOT, 1, 1], [EOT, 1, EOT, 1]])
    np.save(tmp_path / "starts.npy", np.array([0, 3], np.uint32))
    written = [tokens.shards[0], dataclasses.replace(tokens.shards[1], starts=tmp_path / "starts.npy")]
    assert TokenStream(written).document_starts(EOT).tolist() == [0, 3, 6]  # the 5th is no document's begin


@pytest.fixture
def corpus(texts: str, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """In several shards."""
    monkeypatch.setattr("gptlab.data.tokens.encode.JOB", 500)
    found = prepare(Files(files=[texts.strip("[]")]), Byte(), section=3000)
    assert len(found.train[0].shards) > 2
    return found


def test_what_prepare_writes_down_are_the_separators(corpus: Corpus) -> None:
    (train,) = corpus.train
    bare = TokenStream([dataclasses.replace(shard, starts=None) for shard in train.shards])
    assert all(shard.starts for shard in train.shards)
    starts = train.document_starts(corpus.tokenizer.eot).tolist()
    assert len(starts) == corpus.manifest["train"]["documents"]
    assert bare.document_starts(corpus.tokenizer.eot).tolist() == starts


def test_a_shard_is_a_line_of_numpy(corpus: Corpus) -> None:
    (folder,), (train,) = corpus.folders, corpus.train
    lines = [
        np.memmap(folder / shard["file"], corpus.manifest["dtype"]) for shard in corpus.manifest["train"]["shards"]
    ]
    assert np.array_equal(np.concatenate(lines), train[:])
    for shard in corpus.manifest["train"]["shards"]:
        assert hashlib.sha256((folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


def test_a_prepared_folder_is_data(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.folders[0].rename(tmp_path / "moved")
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "elsewhere"))
    found = prepare(TokenFiles(folder="moved"), OpenAI())  # it brings its own tokenizer
    assert found.manifest == corpus.manifest
    assert found.tokenizer.n_vocab == 257
    for before, after in zip([*corpus.train, corpus.val], [*found.train, found.val], strict=True):
        assert np.array_equal(before[:], after[:])


def nano_gpt(path: Path, ids: list[int]) -> None:
    np.array(ids, np.uint16).tofile(path)


def llm_c(path: Path, ids: list[int], magic: int = 20240520, dtype: str = "<u2") -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, 1, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())


def llm_c_wide(path: Path, ids: list[int]) -> None:
    llm_c(path, ids, 20240801, "<u4")


@pytest.mark.slow
@pytest.mark.usefixtures("gpt2_cache")
@pytest.mark.parametrize("write", [nano_gpt, llm_c, llm_c_wide])
def test_tokens_that_others_wrote(tmp_path: Path, write: Callable[[Path, list[int]], None]) -> None:
    words = [f"every effort moves you, 猫{i:02}" for i in range(82)]
    tokenizer = OpenAI("gpt2").build([])
    documents = [[50256, *tokenizer.encode(each)] for each in words]
    assert len({len(document) for document in documents}) == 1

    def joined(start: int, stop: int) -> list[int]:
        return [i for document in documents[start:stop] for i in document]

    write(tmp_path / "train_1.bin", joined(0, 50))
    write(tmp_path / "train_2.bin", joined(50, 80))
    write(tmp_path / "val.bin", joined(80, 82))
    found = prepare(TokenFiles(train=["train_*.bin"], val=["val.bin"]), OpenAI("gpt2"))
    assert found.train[0][:].tolist() == joined(0, 80)
    assert found.val[:].tolist() == joined(80, 82)
    assert found.manifest["train"]["documents"] == 80
    size = sum(len(each.encode()) for each in words[80:])
    assert found.manifest["val"] == {"documents": 2, "bytes": size, "tokens": len(joined(80, 82))}
    apart = prepare(TokenFiles(train=["train_1.bin", "train_2.bin"], val_fraction=0.5), OpenAI("gpt2"))
    n = len(joined(0, 40))
    assert (apart.train[0][:].tolist(), apart.val[:].tolist()) == (joined(0, 40), joined(40, 80))
    assert (apart.manifest["train"]["tokens"], apart.manifest["val"]["tokens"]) == (n, n)
    assert apart.manifest["sha256"] != found.manifest["sha256"]


def test_the_hash_is_of_the_tokens(tmp_path: Path) -> None:
    nano_gpt(tmp_path / "a.bin", [1, 2, 3] * 9)
    nano_gpt(tmp_path / "b.bin", [1, 2, 4] * 9)
    hashes = [prepare(TokenFiles(train=[name]), Byte()).manifest["sha256"] for name in ("a.bin", "b.bin", "a.bin")]
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_changed_shard_is_found_out(corpus: Corpus) -> None:
    path = corpus.train[0].shards[1].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # a disk's clock may tick slowly
    with pytest.raises(
        UserError, match=rf"^data={path}: its SHA-256 is .+ and not the manifest's .+; copy it again.+$"
    ):
        prepare(TokenFiles(folder=str(path.parent)), Byte())


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 10), Path.unlink])
def test_a_shard_that_is_not_whole(corpus: Corpus, damage: Callable[[Path], None]) -> None:
    path = corpus.val.shards[0].path
    damage(path)
    with pytest.raises(UserError, match=rf"^data={path}: (has 10 bytes instead of|no such file).*; copy it again.+$"):
        own_shards(path.parent, corpus.manifest, "val")


def cut_short(path: Path) -> None:
    llm_c(path, [1] * 50)
    os.truncate(path, path.stat().st_size - 2)


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (cut_short, "has 1,122 bytes instead of 1,124"),
        (lambda path: path.write_bytes(b"odd"), "its 3 bytes are no whole number of uint16 ids"),
        (lambda path: nano_gpt(path, [1, 257, 2]), "it has ids up to 257, the vocabulary ends at 256"),
        (lambda path: llm_c_wide(path, [1, 70_000]), "it has ids up to 70,000, the vocabulary ends at 256"),
    ],
)
def test_tokens_that_cannot_be(tmp_path: Path, write: Callable[[Path], None], why: str) -> None:
    write(tmp_path / "x.bin")
    with pytest.raises(UserError, match=rf"^data=x\.bin: {why}; .+$"):
        prepare(TokenFiles(train=["x.bin"]), Byte())


def test_a_folder_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^data\.folder={tmp_path}: is not a folder of tokens; .+tokenize.+$"):
        prepare(TokenFiles(folder=str(tmp_path)), Byte())


@pytest.mark.parametrize("starts", [[0, 20, 20], [20, 0], [0, 50]])
def test_starts_of_documents_that_cannot_be(tmp_path: Path, starts: list[int]) -> None:
    np.arange(50, dtype=np.uint16).tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.starts.npy", np.array(starts, np.uint32))
    stream = TokenStream([Shard(tmp_path / "a.bin", "uint16", 50, starts=tmp_path / "a.starts.npy")])
    with pytest.raises(UserError, match=r"^data=.*a\.starts\.npy: .+ no places in the shard"):
        stream.document_starts(7)


def test_masks_of_more_shards_than_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.bin").write_bytes(bytes([1, 0, 1]))
    np.arange(9, dtype=np.uint16).tofile(tmp_path / "a.bin")
    parts = [Shard(tmp_path / "a.bin", "uint16", 3, offset=6 * i) for i in range(3)]
    parts[1] = dataclasses.replace(parts[1], mask=tmp_path / "m.bin")
    expected = [1, 1, 1, 1, 0, 1, 1, 1, 1]
    for most_open in (128, 2):
        monkeypatch.setattr(shards, "MOST_OPEN", most_open)
        tokens = TokenStream(parts)
        assert tokens[2:7].tolist() == [2, 3, 4, 5, 6]
        for start, stop in ((0, 9), (2, 5), (4, 5), (3, 3)):
            mask = tokens.mask(slice(start, stop))
            assert mask is not None and mask.tolist() == expected[start:stop]


def test_starts_of_documents_that_are_cut_short(tmp_path: Path) -> None:
    np.arange(50, dtype=np.uint16).tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.starts.npy", np.array([0, 20], np.uint32))
    whole = (tmp_path / "a.starts.npy").read_bytes()
    (tmp_path / "a.starts.npy").write_bytes(whole[:-3])
    stream = TokenStream([Shard(tmp_path / "a.bin", "uint16", 50, starts=tmp_path / "a.starts.npy")])
    with pytest.raises(UserError, match=r"^data=.*a\.starts\.npy: cannot be read \(.+\); .+"):
        stream.document_starts(7)
